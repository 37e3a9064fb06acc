# What a newcomer types. `make help` lists it.

SHELL := /bin/bash
# Some tests start a platform of several processes each; more than four at once only wait for each other.
RUST_TEST_THREADS ?= $(shell n=$$(nproc); echo $$((n > 4 ? 4 : n)))
# For `make kills`: how many; each run draws its own points, and prints the seed.
KILLS ?= 1000
# For `make run`: options of `cloudskin demo`, such as ARGS="--keep --out pictures". For `make aarch64`: those of `crossing prove`.
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help setup build run test kills aarch64 container spark bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is needed besides Rust (kept in .setup, system packages by apt)
	setup/setup.sh

build: setup ## compile the program: target/release/cloudskin
	cargo build --release
	@# The first programs that are ever compiled wait for the libraries of C and C++ to be built; better here than in front of a user.
	@echo 'int main(void) { return 0; }' | target/release/cloudskin cc -x c - -o .setup/first.wasm
	@printf '#include <iostream>\nint main() { std::cout << 1; }\n' | target/release/cloudskin c++ -x c++ - -o .setup/first.wasm

run: build ## watch a job start at the edge and finish in the cloud; pictures in ./out
	target/release/cloudskin demo $(ARGS)

test: ## all tests, with what they compare against
	setup/setup.sh test
	RUST_TEST_THREADS=$(RUST_TEST_THREADS) cargo test --release --workspace

kills: ## the object store's nodes, namenodes and agents and stream servers killed a thousand times (KILLS=…), the store's tier at random steps, a million steps of it against a map in the simulator, a thousand bad days of the namenode and its standby there, stores of streams crashing against a model, stream servers on a thousand bad days in the simulator, what reads bytes fed with noise; `make test` has a part of each
	tests/kills.sh $(KILLS)
	GEDS_LIVES=$(KILLS) cargo test --release --workspace --lib -- --nocapture random_lives_lose_nothing_that_was_kept
	GEDS_STEPS=$$(($(KILLS) * 100)) SEEDS=$$(($(KILLS) * 2)) cargo test --release --workspace --test lives -- --nocapture
	SEEDS=$(KILLS) cargo test --release --workspace --test takeovers -- --nocapture
	STREAMS_ROUNDS=$$(($(KILLS) / 10)) cargo test --release --workspace --test store -- --nocapture after_a_crash_a_store_is_what_some_number_of_its_changes_made_of_it
	ROUNDS=$$(($(KILLS) / 20 + 1)) cargo test --release --workspace --test network -- --nocapture
	SEEDS=$(KILLS) cargo test --release --workspace --test simulator -- --nocapture
	STREAMS_FUZZ=$$(($(KILLS) * 50)) GEDS_FUZZ=$$(($(KILLS) * 1000)) CELLS_FUZZ=$$(($(KILLS) * 100)) cargo test --release --workspace --test fuzz -- --nocapture

aarch64: ## programs that go to and fro between this x86-64 machine and an emulated aarch64 one in the middle of their work (ARGS="--only numbers"); figures in out/aarch64.jsonl
	tests/aarch64.sh $(ARGS)

container: ## the container for models on video, built by its recipe from packages, and a model in it that sees video (as root; 3 GB below .setup)
	tests/streams/container.sh

spark: ## Spark, as it is released, with the store as its file system, beside local files (320 MB below .setup)
	bindings/java/spark.sh

bench: ## our figures and our peers', as JSON lines; they are kept in bench/report.md, too
	setup/setup.sh test
	cargo run --release -p bench -- --record all

clean: ## remove what was compiled and what runs have left (not .setup's downloads)
	cargo clean
	rm -rf out .setup/run
