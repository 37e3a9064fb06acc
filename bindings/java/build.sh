#!/bin/bash
# Makes the jar: build.sh JAR [LIBRARY [HADOOP]]
#   JAR       where to
#   LIBRARY   libcloudskin_geds.so, as `cargo build --release --workspace` makes it; without it, or "-", the jar has none and CLOUDSKIN_GEDS_LIBRARY names one
#   HADOOP    a folder with Hadoop's client jars; without it the jar has no Hadoop file system
set -eu
jar=$(realpath -m "$1") library=${2:--} hadoop=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
java=${JAVA_HOME:-$(dirname "$(dirname "$(realpath "$(command -v javac)")")")}
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
native=$made/cloudskin/geds/native
mkdir -p "$native"
sources=("$here"/src/cloudskin/geds/*.java)
if [ -n "$hadoop" ]; then
    sources+=("$here"/src/cloudskin/geds/hadoop/*.java)
    cp -r "$here/resources/META-INF" "$made/"
fi
javac --release 17 -Xlint:all,-processing -Werror -cp "${hadoop:+$hadoop/*}" -d "$made" "${sources[@]}"
cc -shared -fPIC -O2 -std=gnu99 -Wall -Wextra -Werror -I "$here/../c/include" -I "$java/include" -I "$java/include/linux" "$here/native/geds_jni.c" -o "$native/libcloudskin_geds_jni.so" -ldl
if [ "$library" != - ]; then
    cp "$library" "$native/libcloudskin_geds.so"
    strip "$native/libcloudskin_geds.so"
fi
jar --create --file "$jar" -C "$made" .
