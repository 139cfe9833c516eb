# Plain `just` lists what there is to do.
_default:
    @just --list --unsorted

# Does it compile? The quickest answer.
check:
    cargo check --all-targets --locked

# All tests, or those of one capability: `just test cors`.
test capability="":
    cargo test --locked {{ if capability == "" { "" } else { "--test main " + capability + "::" } }}

# Format, clippy and rustdoc, all without a warning.
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# Format everything.
fmt:
    cargo fmt
    cd fuzz && cargo fmt
    cd loom && cargo fmt

# Benchmarks of the hot structures, or of one: `just bench router`.
bench name="":
    cargo bench --locked {{ if name == "" { "" } else { "--bench " + name } }}

# Every fuzz target for so many seconds. Needs a nightly toolchain and `cargo install cargo-fuzz`. Armiger has no unsafe
# code of its own, so no sanitizer, which would cost time. Debug assertions and checks of overflow stay.
fuzz seconds="60":
    cd fuzz && export CARGO_PROFILE_DEV_OPT_LEVEL=1 && for target in $(cargo +nightly fuzz list); do \
        echo "== $target"; \
        mkdir -p "corpus/$target"; \
        cargo +nightly fuzz run --dev --sanitizer none "$target" "corpus/$target" "seeds/$target" -- -max_total_time={{ seconds }} -max_len=4096 || exit 1; \
    done

# Every order in which threads can draw from limits (loom).
loom:
    cd loom && cargo run --release --locked --quiet

# Instructions per request, of all kinds or of those named; fails when a change adds more than 2 %. Needs valgrind.
instructions *arguments:
    benches/instructions {{ arguments }}

# The configuration reference from the doc comments.
docs:
    mkdir -p docs
    cargo run --quiet --locked -- schema --format markdown > docs/configuration.md
    cargo run --quiet --locked -- schema --format metrics > docs/metrics.md
    cargo run --quiet --locked -- schema --format access-log > docs/access-log.md
    cargo run --quiet --locked -- schema --format reasons > docs/reasons.md
    cargo run --quiet --locked -- schema > armiger.schema.json

# The demo: armiger in front of three small back ends.
demo *arguments:
    cargo run --release --locked -- demo {{ arguments }}

# The binary as the image has it, made by what it does most; takes some ten minutes.
dist *arguments:
    deploy/dist/build {{ arguments }}

# All that must pass before a change is done.
ci:
    .ci/run
