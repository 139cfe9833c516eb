#!/usr/bin/env bash
# Proves the image's binary without a container engine: static, small, and enough by itself. It runs in an empty,
# read-only root directory as the user 65532, as the image does, and proxies a request there.
#
#   deploy/image/prove.sh            builds it as the Dockerfile does; takes minutes
#   deploy/image/prove.sh BINARY     takes this one
#
# Needs root (for `chroot` and a mount of its own), and curl; to build, also the Rust target and a C compiler for it:
# `rustup target add $(uname -m)-unknown-linux-musl` and the packages musl-tools and make, and what deploy/dist/build needs.
set -euo pipefail
cd "$(dirname "$0")/../.."

SIZE_MAX=$((25 << 20)) # bytes
USER_ID=65532

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
ok() { printf 'ok    %s\n' "$*"; }

[ "$(id -u)" = 0 ] || fail "chroot needs root"

binary=${1:-}
if [ -z "$binary" ]; then
    binary=$(TARGET=$(uname -m)-unknown-linux-musl deploy/dist/build --features jemalloc | tail -n 1)
fi

# --- the file ---

# A program that needs a loader names it in its program headers.
if grep -qaE '/ld-(linux|musl)[^[:space:]]*\.so' "$binary"; then fail "$binary asks for a loader, so it is not static"; fi
if ldd "$binary" 2>/dev/null | grep -q '=>'; then fail "$binary needs libraries"; fi
ok "static"

size=$(stat -c %s "$binary")
[ "$size" -lt "$SIZE_MAX" ] || fail "$size bytes, more than $SIZE_MAX"
ok "$size bytes"

# --- the root: nothing but the binary and configurations ---

root=$(mktemp -d)
pids=()
clean() {
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
    rm -rf "$root" "$root".log.*
}
trap clean EXIT
install -m 0555 "$binary" "$root/armiger"
mkdir -p "$root/etc/armiger"

# start NAME: runs NAME.yaml inside the root; afterwards $pid is its process.
start() {
    chmod -R a+rX,a-w "$root"
    # The mount is this process's alone, and ends with it. `exec` all the way, so that the process is armiger itself.
    # shellcheck disable=SC2016
    env -i ARMIGER_LOG_FORMAT=json unshare --mount sh -ec '
        mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"
        exec chroot --userspec="$2:$2" "$1" /armiger run --config "/etc/armiger/$3.yaml" --workers 1
    ' sh "$root" "$USER_ID" "$1" >/dev/null 2>"$root.log.$1" &
    pid=$!
    pids+=("$pid")
}

# address NAME WHAT: where it listens, from the line that says so.
address() {
    local line
    for _ in $(seq 100); do
        line=$(grep -m1 -E "$2" "$root.log.$1" 2>/dev/null || true)
        if [ -n "$line" ]; then grep -oE '127\.0\.0\.1:[0-9]+' <<<"$line"; return; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$root.log.$1" >&2
    fail "$1 did not start"
}

cat >"$root/etc/armiger/app.yaml" <<'YAML'
listeners: [{name: http, address: 127.0.0.1:0}]
admin: {address: 127.0.0.1:0}
routes: [{name: hello, match: {path: /hello}, respond: {body: "hello from the app\n"}}]
YAML
start app
app=$(address app '"listener":"http"')

cat >"$root/etc/armiger/config.yaml" <<YAML
listeners: [{name: http, address: 127.0.0.1:0, via: sidecar}]
admin: {address: 127.0.0.1:0}
drain: {delay: 0s, timeout: 5s}
upstreams: {app: {endpoints: ["http://$app"]}}
routes: [{name: all, match: {path: "/{rest...}"}, proxy: {upstream: app}}]
YAML
start config
armiger=$(address config '"listener":"http"')
admin=$(address config 'admin listening')

# --- how it runs ---

ids=$(awk '/^(Uid|Gid):/ {print $2, $3, $4, $5}' "/proc/$pid/status" | sort -u)
[ "$ids" = "$USER_ID $USER_ID $USER_ID $USER_ID" ] || fail "runs as $ids"
ok "runs as $USER_ID"

awk -v root="$root" '$5 == "/" || $5 == root {if ($6 ~ /^ro(,|$)/) locked = 1; else open = 1} END {exit open || !locked}' \
    "/proc/$pid/mountinfo" || fail "its root can be written to"
[ "$(find "$root" -type f | wc -l)" = 3 ] || fail "there is more in its root than the binary and two configurations"
ok "its root is read-only and has nothing else in it"

[ "$(curl -fsS -m 5 "http://$armiger/hello")" = "hello from the app" ] || fail "the request was not proxied"
ok "proxies a request"

[ "$(curl -fsS -m 5 "http://$admin/readyz" | head -n1 | cut -c1-5)" = ready ] || fail "is not ready"
ok "answers probes"

kill -TERM "$pid"
status=0
wait "$pid" || status=$?
[ "$status" = 0 ] || { cat "$root.log.config"; fail "SIGTERM ended it with code $status"; }
ok "ends on SIGTERM with code 0"
