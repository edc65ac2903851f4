"""What every test shares: no network, few threads, and tiny decoders with random weights.

Sizes are a toy's; what makes a family itself (sliding windows, head norms, scalings) is switched on wherever it exists.
"""

from __future__ import annotations

import os

for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[variable] = "1"  # before anything imports transformers
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, SiglipVisionConfig  # noqa: E402

import phantrol  # noqa: E402

torch.set_num_threads(min(2, torch.get_num_threads()))

VOCAB_SIZE, NUM_LAYERS, WINDOW_TOKENS = 97, 3, 6
TINY = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LAST_LAYERS_SLIDE = dict(use_sliding_window=True, sliding_window=WINDOW_TOKENS, max_window_layers=1)
FAMILIES = {
    "llama": {},
    "qwen2": LAST_LAYERS_SLIDE,
    "qwen3": dict(head_dim=8, **LAST_LAYERS_SLIDE),
    "mistral": dict(sliding_window=WINDOW_TOKENS),
    "phi3": dict(sliding_window=WINDOW_TOKENS),
    "gemma3_text": dict(
        head_dim=8,
        sliding_window=WINDOW_TOKENS,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "olmo2": {},
    "granite": dict(attention_multiplier=0.4, residual_multiplier=0.5, embedding_multiplier=3.0, logits_scaling=2.0),
    "smollm3": dict(no_rope_layers=[1, 0, 1], **LAST_LAYERS_SLIDE),
}


def tiny_decoder(family: str, seed: int = 0, **options: object) -> PreTrainedModel:
    """Return a causal language model of three layers, hidden size 32, with random weights, in eval mode."""
    config = AutoConfig.for_model(family, **{**TINY, **FAMILIES[family], **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in parallel may be taken in another order: bits are compared here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", name="tiny_decoder")
def tiny_decoder_fixture() -> Callable[..., PreTrainedModel]:
    """`tiny_decoder(family, seed=0, **options of its configuration)` makes a fresh one."""
    return tiny_decoder


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family of decoders in turn."""
    return request.param


def tiny_model(
    tokenizer: Any, modifiers: Sequence[Any], family: str = "llama", image_px: int = 32, **options: Any
) -> Any:
    """Return (model, processor): two decoder layers, 16 image tokens, and weights so large that what is seen matters.

    options  seed, noise (added to every parameter), dtype, and whatever the decoder's configuration takes
    """
    seed, noise, dtype = options.pop("seed", 0), options.pop("noise", 0.2), options.pop("dtype", torch.float32)
    torch.manual_seed(seed)
    sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2)
    text = AutoConfig.for_model(
        family, **{**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 8}
    )
    for name, value in {"num_hidden_layers": 2, **options}.items():
        setattr(text, name, value)
    vision = SiglipVisionConfig(num_hidden_layers=1, image_size=image_px, patch_size=image_px // 4, **sizes)
    vision.vision_use_head = False
    model, processor = phantrol.build(text, vision, modifiers, tokenizer=copy.deepcopy(tokenizer), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model, processor


@pytest.fixture(scope="session", name="tiny_model")
def tiny_model_fixture() -> Callable[..., Any]:
    """`tiny_model(tokenizer, modifiers, ...)` makes a small vision-language model and its processor."""
    return tiny_model


@pytest.fixture
def replying() -> Iterator[Callable[..., str]]:
    """`replying(status, body, headers)`: the address, ending in /v1, of a server that replies so to whatever is asked.

    A status of None is no HTTP at all. `replying.met[address]` has (method, Authorization) of each request.
    """
    servers, met = [], {}

    def reply(status: int | None, body: bytes, headers: Mapping[str, Any] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                met[address].append((self.command, self.headers.get("Authorization")))
                if status is not None:
                    self.send_response(status)
                    for name, value in (headers or {}).items():
                        self.send_header(name, str(value))
                    self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        address = f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"
        met[address] = []
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return address

    reply.met = met
    yield reply
    for server in servers:
        server.shutdown()
        server.server_close()
