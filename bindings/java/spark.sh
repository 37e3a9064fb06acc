#!/usr/bin/env bash
# Lets Spark, as it is released, work on the store: installs it (320 MB) below .setup/spark, builds the library and the jar, and runs tests/spark.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
place=$PWD/.setup/spark
setup/setup.sh test
[ -x "$place/bin/spark-submit" ] || { python3 -m venv "$place" && "$place/bin/pip" install -q pyspark==3.5.3; }
cargo build --release --workspace
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
bindings/java/build.sh "$made/geds.jar" target/release/libcloudskin_geds.so .setup/hadoop
"$place/bin/python" bindings/java/tests/spark.py "$made/geds.jar" "$made"
