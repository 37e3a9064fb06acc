#!/usr/bin/env bash
# Builds the container for models by its recipe, from a base that is made of packages, and sees a model in it see video: the container as `podman build` makes it, its
# entry started as its user, with the network of this machine. Installs what that takes, and keeps it below .setup/container (3 GB; remove it when it is done).
#
#   tests/streams/container.sh        as root, as the packages' installer and the base's are
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
place=$PWD/.setup/container
mkdir -p "$place"
{ command -v buildah && command -v mmdebstrap; } > /dev/null || apt-get install -y --no-install-recommends buildah mmdebstrap
cargo build --release
storage=(--root "$place/store" --runroot "$place/run" --storage-driver vfs)
export BUILDAH_ISOLATION=chroot

base=$(sed -n 's/^FROM //p' deploy/inference/Containerfile)
if ! buildah "${storage[@]}" inspect --type image "$base" > /dev/null 2>&1; then
    echo "the base, $base, out of packages"
    release=${base#debian:}
    mmdebstrap --variant=minbase "${release%-slim}" "$place/base.tar"
    made=$(buildah "${storage[@]}" from scratch)
    buildah "${storage[@]}" add -q "$made" "$place/base.tar" /
    buildah "${storage[@]}" commit -q "$made" "$base"
    buildah "${storage[@]}" rm "$made" > /dev/null
    rm "$place/base.tar"
fi
buildah "${storage[@]}" bud --pull-never --network host -t cloudskin-inference -f deploy/inference/Containerfile .

# What starts its entry, with the volumes and variables that the test gives.
made=$(buildah "${storage[@]}" from --pull-never cloudskin-inference)
trap 'buildah "${storage[@]}" rm "$made" > /dev/null' EXIT
entry=$(buildah "${storage[@]}" inspect --format '{{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}' "$made")
cat > "$place/enter" << END
#!/bin/sh
exec buildah ${storage[*]@Q} run --network host "\$@" $made -- $entry
END
chmod +x "$place/enter"
CLOUDSKIN_CONTAINER=$place/enter cargo test --release --workspace --test end_to_end -- --nocapture an_encoder_sends_video_by_http_and_a_model_sees_it
