# One command each: `make demo` installs and runs the main job, `make test` installs and runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Which build of torch: TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" is the one for CPUs.
TORCH ?= torch==2.13.0

.PHONY: demo test install lint docs bench asan hashes clean

$(BIN)/sparsecse: pyproject.toml setup.py constraints.txt $(wildcard csrc/*) $(wildcard kernels/*.py) $(wildcard cli/*.py) $(shell find sparsecse -name '*.py')
	@echo "Installing into $(VENV); this downloads torch and takes minutes, without a word"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -c constraints.txt ".[demo,test,dev,docs]"
	touch $@

install: $(BIN)/sparsecse

demo: install
	HF_HUB_OFFLINE=1 $(BIN)/sparsecse run demo --data demo --train-data demo --sparsity auto --steps 20

test: install
	HF_HUB_OFFLINE=1 $(BIN)/pytest -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sparsecse cli kernels benchmarks/studies

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install
	$(BIN)/python benchmarks/uniformity.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/encode.py
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/scoring.py

# The kernel tests with AddressSanitizer and UndefinedBehaviorSanitizer; the instrumented build stays in the source tree.
asan: install
	SPARSECSE_SANITIZE=address,undefined SPARSECSE_REQUIRE_NATIVE=1 $(BIN)/pip install -q --no-deps -e .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
		$(BIN)/pytest -q -n 0 tests/test_kernels.py tests/test_attention.py tests/test_runtime.py tests/test_runtime_modernbert.py \
		tests/test_random_shapes.py \
		-k "not opcheck" -m "nightly or not nightly"

# The newest tools of a release, pinned by hash for all platforms.
hashes:
	cd .github/requirements && uv pip compile --upgrade --universal --python-version 3.12 --generate-hashes --no-annotate \
		--custom-compile-command "make hashes" --quiet release.in -o release.txt
	cd .github/requirements && uv pip compile --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
		--custom-compile-command "make hashes" --quiet backend.in -o backend.txt

clean:
	rm -rf build dist site *.egg-info sparsecse/_native*.so
