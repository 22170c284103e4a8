# make run      trains BP, DFA and PEPITA side by side on the built-in digits
# make test     runs every test
# make lint     checks style and types; make format puts the style right
# make gpu-check  checks and measures everything on a GPU; WHEEL=FILE checks a wheel that was built elsewhere
# make wheel COMMIT=b3e0fc5  builds that commit's wheel into build/wheels, to compare with (`fastalign bench --against`)
# make kernels  checks the CUDA kernels' machine code, and writes their table into docs/kernels.md
#
# Each installs first what it needs and what changed: into the active environment if that has a torch on which fastalign
# runs, else into .venv with the torch that pyproject.toml pins. TORCH=2.12.0 asks for another one, in .venv.

PYTHON ?= python3
TORCH ?=
WHEEL ?=
COMMIT ?= HEAD

PREFIX := $(if $(TORCH),,$(shell $(PYTHON) .ci/active_torch.py))
ACTIVE := $(PREFIX)
PREFIX := $(or $(ACTIVE),$(CURDIR)/.venv)
PINNED := $(shell sed -n 's/^requires = .*"torch==\([^"]*\)".*/\1/p' pyproject.toml)
STAMP := $(PREFIX)/.fastalign-$(shell echo '$(CURDIR) $(TORCH)' | cksum | cut -d' ' -f1)
PIP := $(PREFIX)/bin/python3 -m pip install --quiet --disable-pip-version-check
CSRC := $(shell find csrc -type f)

TOOLS := build/triton/triton/backends/nvidia/bin

.PHONY: install run test lint format kernels gpu-check wheel

run: install
	$(PREFIX)/bin/python3 -m fastalign demo

test: install
	$(PREFIX)/bin/python3 -m pytest

lint: $(STAMP)-dev
	$(PREFIX)/bin/ruff check .
	$(PREFIX)/bin/mypy
	$(PREFIX)/bin/clang-format --dry-run -Werror $(CSRC)

format: $(STAMP)-dev
	$(PREFIX)/bin/ruff check --fix .
	$(PREFIX)/bin/ruff format .
	$(PREFIX)/bin/clang-format -i $(CSRC)

gpu-check: $(if $(WHEEL),,install)
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

$(TOOLS):
	$(PIP) --no-deps --target build/triton triton

install: $(STAMP)

$(STAMP): setup.py pyproject.toml $(CSRC)
ifeq ($(ACTIVE),)
	test -x $(PREFIX)/bin/python3 || $(PYTHON) -m venv $(PREFIX)
	$(PIP) torch==$(or $(TORCH),$(PINNED))
endif
	$(PIP) 'setuptools>=77' wheel ninja numpy
	$(PIP) --no-build-isolation --editable '.[train,test]'
	rm -f $(PREFIX)/.fastalign-*
	touch $@

$(STAMP)-dev: $(STAMP)
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@
