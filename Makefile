# make run      trains BP, DFA and PEPITA side by side on the built-in digits
# make test     runs the tests that show most, in some minutes; make test-all runs every one
# make lint     checks style and types; make format puts the style right
# make gpu-check  checks and measures everything on a GPU; WHEEL=FILE checks a wheel that was built elsewhere
# make wheel COMMIT=b3e0fc5  builds that commit's wheel into build/wheels, to compare with (`fastalign bench --against`)
# make kernels  checks the CUDA kernels' machine code, and writes their table into docs/kernels.md
#
# Each installs first what it needs and what changed: into the active environment if that has a torch on which fastalign
# runs, else into .venv with the torch that pyproject.toml pins. TORCH=2.12.0 asks for another one, in .venv.
# CUDA kernels are compiled for this machine's GPUs alone, for none without one; `make kernels` compiles all of them,
# and so does FASTALIGN_CUDA=1.

PYTHON ?= python3
TORCH ?=
WHEEL ?=
FASTALIGN_CUDA ?= $(if $(filter kernels,$(MAKECMDGOALS)),1,machine)
COMMIT ?= HEAD

PREFIX := $(if $(TORCH),,$(shell $(PYTHON) .ci/active_torch.py))
ACTIVE := $(PREFIX)
PREFIX := $(or $(ACTIVE),$(CURDIR)/.venv)
PINNED := $(shell sed -n 's/^requires = .*"torch==\([^"]*\)".*/\1/p' pyproject.toml)
GPUS := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null)
CHOICES := $(CURDIR) $(TORCH) $(FASTALIGN_CUDA) $(FASTALIGN_CUDA_ARCHS) $(GPUS)
STAMP := $(PREFIX)/.fastalign-$(shell echo '$(CHOICES)' | cksum | cut -d' ' -f1)
SHOW := @FASTALIGN_CUDA=$(FASTALIGN_CUDA) $(PYTHON) .ci/progress.py
# .venv gets no bytecode from pip, which takes 20 s for it: the demonstration needs little of it.
PIP := $(PREFIX)/bin/python3 -m pip install --verbose --disable-pip-version-check --progress-bar off \
  $(if $(ACTIVE),,--no-compile)
# What an active environment has of them stays; .venv gets those whose hashes are known.
BUILD_TOOLS := $(if $(ACTIVE),'setuptools>=77' wheel ninja,--no-deps --requirement .ci/build.txt)
TO_BUILD := $(if $(ACTIVE),,torch==$(or $(TORCH),$(PINNED))) numpy
CSRC := $(shell find csrc -type f)

# A process of one thread for each core.
PYTEST := OMP_NUM_THREADS=1 $(PREFIX)/bin/python3 -m pytest --numprocesses auto --dist worksteal

TOOLS := build/triton/triton/backends/nvidia/bin

.PHONY: install run test test-all lint format kernels gpu-check wheel

run: install
	$(PREFIX)/bin/python3 -m fastalign demo

test: $(STAMP)-test
	$(PYTEST)

test-all: $(STAMP)-test
	$(PYTEST) -m ""

lint: $(STAMP)-dev
	$(PREFIX)/bin/ruff check .
	$(PREFIX)/bin/mypy
	$(PREFIX)/bin/clang-format --dry-run -Werror $(CSRC)

format: $(STAMP)-dev
	$(PREFIX)/bin/ruff check --fix .
	$(PREFIX)/bin/ruff format .
	$(PREFIX)/bin/clang-format -i $(CSRC)

gpu-check: $(if $(WHEEL),,$(STAMP)-test)
	$(if $(WHEEL),$(PYTHON),$(PREFIX)/bin/python3) benchmarks/gpu_check.py $(if $(WHEEL),--wheel $(WHEEL))

# Without CUDA kernels, unless FASTALIGN_CUDA=1 asks for them. The commit stands in the wheel's name, as its build tag.
wheel: install
	set -e; commit=$$(git rev-parse --short=7 '$(COMMIT)^{commit}'); \
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	git archive "$$commit" | tar -x -C "$$folder"; cd "$$folder"; \
	FASTALIGN_NATIVE=1 FASTALIGN_CUDA=$${FASTALIGN_CUDA:-0} $(PREFIX)/bin/python3 setup.py --quiet bdist_wheel \
	  --build-number "0.$$commit" --dist-dir '$(CURDIR)/build/wheels'; \
	ls '$(CURDIR)'/build/wheels/*"-0.$$commit-"*

kernels: install $(TOOLS)
	PATH="$(TOOLS):$$PATH" $(PREFIX)/bin/python3 tests/build/machine_code.py fastalign/_C.abi3.so \
	  --table docs/kernels.md --write

$(TOOLS): .ci/triton.txt
	$(SHOW) "installing triton, for its tools" $(PIP) --no-deps --python-version 3.12 --target build/triton \
	  --requirement .ci/triton.txt

install: $(STAMP)

$(STAMP): setup.py pyproject.toml .ci/build.txt $(CSRC)
ifeq ($(ACTIVE),)
	test -x $(PREFIX)/bin/pip || $(PYTHON) -m venv $(PREFIX)
endif
	$(SHOW) "installing what builds fastalign" $(PIP) $(BUILD_TOOLS)
	$(SHOW) "installing what it builds on" $(PIP) $(TO_BUILD)
	$(SHOW) "installing fastalign" $(PIP) --no-build-isolation --editable '.[train]'
	@rm -f $(PREFIX)/.fastalign-*
	@touch $@

$(STAMP)-test: $(STAMP)
	$(SHOW) "installing what tests it" $(PIP) --no-build-isolation --editable '.[train,test]'
ifeq ($(ACTIVE),)
	$(SHOW) "compiling modules to bytecode" $(PREFIX)/bin/python3 -m compileall -qq -j 0 $(PREFIX)/lib || true
endif
	@touch $@

$(STAMP)-dev: $(STAMP)
	$(SHOW) "installing what checks its style" $(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@
