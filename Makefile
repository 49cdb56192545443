# The tasks of this repository. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Cargo reads the same variable.
export CARGO_TARGET_DIR ?= target
# For `make run`: flags of `loopgate demo`, such as ARGS="--listen 127.0.0.1:9000".
ARGS ?=
# For `make test-real`: a real SGLang server.
URL ?=
# For `make test`: names of tests, and flags of theirs after `--`.
TESTS ?=

venv := .venv
clients := tests/clients
say := @printf '\n== %s\n'

.PHONY: help run guest build test clients bench-turn test-real real-url lint clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: guest build ## build everything, ask one question, then serve on 127.0.0.1:8080 until Ctrl-C (ARGS="--help" for more)
	$(say) 'starting the demo'
	@exec "$(CARGO_TARGET_DIR)/release/loopgate" demo $(ARGS)

guest: ## build the Python guest that runs inside the sandbox
	$(say) 'the Python guest (the first time: about a minute)'
	@tools/execute_code/guest/build.sh "$(CARGO_TARGET_DIR)/guest-venv"

build: ## build the gateway
	$(say) 'the gateway (the first time: several minutes)'
	@cargo build --release --locked

# In the release profile, which shares its dependencies with `make run`. Unoptimised, Cranelift would need minutes for
# the guest.
test: guest clients ## run all tests (TESTS="cli::" for some)
	$(say) 'the tests (the first time: several minutes to build them)'
	@cargo test --release --locked $(TESTS)

clients: $(venv)/clients $(clients)/node_modules/clients ## install the SDKs that the tests run, pinned, in folders of their own

# The stamp is written last, so that an installation that broke off is begun again.
$(venv)/clients: $(clients)/requirements.txt
	$(say) 'the Python SDKs'
	@python3 -m venv --clear $(venv) || { echo 'Python 3.10 or later with venv is needed; on Debian: apt install python3-venv' >&2; exit 1; }
	@$(venv)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

$(clients)/node_modules/clients: $(clients)/package-lock.json
	$(say) 'the Node SDKs'
	@command -v node >/dev/null && command -v npm >/dev/null || { echo 'Node 18 or later with npm is needed, for `make test` only; on Debian: apt install nodejs npm' >&2; exit 1; }
	@cd $(clients) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

bench-turn: guest ## what the gateway adds to a turn, against its bar
	$(say) 'from a tool call to the next model call'
	@cargo bench --locked --bench turn

# The server's model must write execute_code calls: Qwen3-Coder, or a small one trained for it.
test-real: real-url guest build clients ## the main job against a real SGLang server: make test-real URL=http://127.0.0.1:30000
	$(say) 'forty questions to $(URL)'
	@$(venv)/bin/python tests/real/check.py "$(CARGO_TARGET_DIR)/release/loopgate" "$(URL)"

real-url:
	@[[ -n "$(URL)" ]] || { echo 'which server? make test-real URL=http://127.0.0.1:30000' >&2; exit 2; }

lint: ## formatting and clippy; warnings are errors
	$(say) 'cargo fmt and cargo clippy'
	@cargo fmt --check
	@cargo clippy --release --all-targets --locked -- -D warnings

clean: ## remove everything that was built here
	cargo clean
	rm -rf $(venv) $(clients)/node_modules tools/*/guest/build
