"""The model card of a converted model: where it comes from, how to use it, what was left behind."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from phantrol.models.released.catalogue import RELEASES
from phantrol.models.released.layout import Layout
from phantrol.version import __version__

PAPERS = {
    "trol": "TroL: Traversal of Layers for Large Language and Vision Models, arXiv:2406.12246",
    "phantom": "Phantom of Latent for Large Language and Vision Models, arXiv:2409.14713",
}
DECODERS = {"internlm2": "InternLM2, as stock Llama classes", "phi3": "Phi-3", "qwen2": "Qwen2"}
TOWERS = {"internvl_vision": "InternViT", "clip_vision_model": "CLIP ViT at 490 px"}


def model_card(source: str, name: str, layout: Layout, notes: Sequence[str]) -> str:
    """Return README.md. source: what was converted;  name: of the new folder;  notes: of the conversion."""
    release, text = _release(layout), layout.text
    title = release.name if release else name
    grafted = ", ".join(
        f"{modifier['name']} ({', '.join(f'{key}={value}' for key, value in modifier.items() if key != 'name')})"
        for modifier in layout.config.modifiers
    )
    head = ["library_name: phantrol", "pipeline_tag: image-text-to-text", "license: other"]
    if release:
        head.append(f"base_model: {release.hub_id}")
    lines = [
        "---",
        *head,
        "---",
        f"# {title}, converted by phantrol",
        "",
        f"The weights of {source}, converted by phantrol {__version__} without training or rounding. Their licence is",
        "that of the original.",
        "",
        f"- method: {PAPERS[layout.family]}",
        f"- decoder: {DECODERS[layout.backbone]}, {text.num_hidden_layers} layers of size {text.hidden_size}",
        f"- vision tower: {TOWERS[layout.config.vision_config.model_type]}",
        f"- grafted: {grafted}",
        *(f"- {note}" for note in notes),
        "",
        "```bash",
        f'phantrol ask {shlex.quote(name)} picture.png "What do you see?"',
        "```",
        "",
        "```python",
        "import phantrol",
        "",
        f"engine = phantrol.Engine.open({name!r})",
        "```",
        "",
    ]
    return "\n".join(lines)


def _release(layout: Layout) -> object | None:
    """The one of the seven with this family, backbone and sizes, if it is one."""
    text = layout.text
    for release in RELEASES.values():
        llm = release.config.get("llm_config", release.config)
        sizes = (release.family, release.backbone, llm["hidden_size"], llm["num_hidden_layers"])
        if sizes == (layout.family, layout.backbone, text.hidden_size, text.num_hidden_layers):
            return release
    return None
