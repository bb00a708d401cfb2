#!/usr/bin/env bash
# Two clusters, one mesh: brings a lab up, meshes it, and shows a client in one cluster being served by pods of both.
# Everything it shows it also checks; the first thing that is not so ends it with what was expected and what was seen.
#
#   scripts/demo.sh [--keep]     --keep leaves the lab up and says what to try
#
# CAUSEWAY=PATH uses another executable than target/debug/causeway.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"
causeway=${CAUSEWAY:-${CARGO_TARGET_DIR:-$repo/target}/debug/causeway}
export CAUSEWAY_LAB=demo
export PATH=$PATH:$repo/.tools/bin
one=cls-gz3k8a2m
two=cls-sh7d4f9q
requests=200

keep=no
case "${1:-}" in
'') ;;
--keep) keep=yes ;;
*)
    echo "usage: scripts/demo.sh [--keep]" >&2
    exit 2
    ;;
esac

# ---- saying and checking ----

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' dim='' red='' green='' plain=''; fi

step=0
heading() {
    step=$((step + 1))
    printf '\n%s[%3d s] %d. %s%s\n' "$bold" "$SECONDS" "$step" "$*" "$plain"
}
good() { printf '  %s✓%s %s\n' "$green" "$plain" "$*"; }
fail() {
    printf '\n%s[%3d s] THE DEMO FAILED in step %d: %s%s\n' "$red" "$SECONDS" "$step" "$*" "$plain" >&2
    exit 1
}

# Runs a command, shows it and what it prints, and stops the demo when it fails.
run() {
    printf '  %s$ %s%s\n' "$dim" "$(shown "$@")" "$plain"
    "$@" 2>&1 | sed 's/^/    /' || fail "expected this to succeed: $(shown "$@")"
}
# A command as a person would type it.
shown() {
    local words="$*"
    echo "${words//$causeway/causeway}"
}

# Tries a command quietly until it succeeds: within SECONDS WHAT COMMAND...
within() {
    local limit=$1 what=$2 start=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $((SECONDS - start)) -lt "$limit" ] ||
            fail "expected $what within $limit s; the last try said: $("$@" 2>&1 | tail -n 5)"
        sleep 0.2
    done
}

# ---- what is asked ----

ask() { # ask COUNT: requests from the client pod in cluster one to the Service's address
    "$causeway" lab exec --cluster "$one" --namespace shop client -- \
        causeway lab workload request "http://$address" --count "$1" -o json
}
answered_by() { ask 20 | scripts/answers.py --quiet 20 "$1"; } # answered_by CLUSTERS
# Sends the requests and shows who answered, which must be pods of exactly these clusters: show CLUSTERS PODS
show() {
    local counts
    printf '  %s$ causeway lab exec --cluster %s -n shop client -- causeway lab workload request http://%s --count %s%s\n' \
        "$dim" "$one" "$address" "$requests" "$plain"
    counts=$(ask "$requests") || true # how many failed is in the counts
    scripts/answers.py "$requests" "$1" "$2" <<<"$counts" 2>&1 | sed 's/^/    /' ||
        fail "the answers were not as expected (see above)"
}

peer_connected() { # how many agents of cluster one are connected to cluster two
    "$causeway" clustermesh status --context "$one" -o json |
        python3 -c 'import json, sys; print(sum(p["connected"] for p in json.load(sys.stdin)["peers"]))'
}
peer_is_gone() {
    local n
    n=$(peer_connected) && echo "$n agents are connected" && [ "$n" = 0 ]
}

# ---- leaving ----

up=no
at_exit() {
    local status=$?
    trap - EXIT INT TERM
    [ "$up" = yes ] || exit "$status"
    if [ "$status" -ne 0 ]; then save_logs || true; fi
    if [ "$keep" = yes ] && [ "$status" -eq 0 ]; then exit 0; fi
    if "$causeway" lab down >/dev/null; then
        echo "  the lab is down"
    else
        echo "the lab could not be taken down; try: $causeway lab down --name demo" >&2
        status=1
    fi
    exit "$status"
}
save_logs() {
    local from to=$repo/target/demo-logs
    from=$(dirname "$("$causeway" lab kubeconfig --path)") || return
    rm -rf "$to" && mkdir -p "$to"
    cp -r "$from/logs" "$to/lab"
    for context in "$one" "$two"; do
        kubectl --request-timeout 5s --context "$context" get pods,services,endpointslices,events -A -o wide >"$to/$context.txt" 2>&1 || true
    done
    echo "  what the lab's processes said is in $to" >&2
}
trap at_exit EXIT
trap 'exit 130' INT TERM

# ---- the demo ----

[ -x "$causeway" ] || fail "there is no $causeway: run \`make demo\`, which builds it"

heading "Two Kubernetes clusters on this machine: API servers, nodes, agents"
"$causeway" lab down >/dev/null # of an earlier run that was kept
up=yes
run "$causeway" lab up
KUBECONFIG=$("$causeway" lab kubeconfig --path) || fail "expected the path of the lab's kubeconfig"
export KUBECONFIG
run kubectl --context "$one" get nodes -o wide
run kubectl --context "$two" get nodes -o wide

heading "One mesh: the clusters exchange addresses and trust"
run "$causeway" clustermesh connect --context "$one" --destination-context "$two"
run "$causeway" clustermesh status --context "$one" --wait --wait-duration 30s
"$causeway" clustermesh status --context "$two" --wait --wait-duration 30s >/dev/null ||
    fail "expected cluster $two to be ready with $one too"
good "both clusters are ready with each other"

heading "A global Service with two pods in each cluster, and a client in $one"
for context in "$one" "$two"; do
    # First the name the pods give in their answers: they read it when they start.
    kubectl create configmap cluster -n shop --from-literal=name="$context" --dry-run=client -o yaml |
        cat <(sed '/^---$/q' examples/client.yaml) - |
        kubectl --context "$context" apply -f - >/dev/null ||
        fail "expected the ConfigMap shop/cluster to be created in $context"
    run kubectl --context "$context" apply -f examples/web.yaml
done
run kubectl --context "$one" apply -f examples/client.yaml
for context in "$one" "$two"; do
    run kubectl --context "$context" -n shop rollout status deployment/web --timeout 60s
done
run kubectl --context "$one" -n shop wait --for condition=Ready pod/client --timeout 30s
run kubectl --context "$one" -n shop get pods,service -o wide
address=$(kubectl --context "$one" -n shop get service web -o 'jsonpath={.spec.clusterIP}') ||
    fail "expected Service shop/web to have an address"

heading "$requests requests from the client in $one: pods of both clusters answer"
within 20 "answers from both clusters" answered_by "$one,$two"
show "$one,$two" 4
good "both clusters and all four pods answered"

heading "No backend left in $one: everything is answered by $two"
run kubectl --context "$one" -n shop scale deployment/web --replicas 0
run kubectl --context "$one" -n shop wait --for delete pod -l app=web --timeout 30s
within 20 "answers from $two only" answered_by "$two"
show "$two" 2
good "the other cluster alone answered"

heading "Back to two backends in $one"
run kubectl --context "$one" -n shop scale deployment/web --replicas 2
run kubectl --context "$one" -n shop rollout status deployment/web --timeout 60s
within 20 "answers from both clusters" answered_by "$one,$two"
good "both clusters answer again"

heading "The control-plane link is cut: the clusters no longer see each other, traffic goes on"
run "$causeway" lab link cut "$one" "$two"
show "$one,$two" 4
within 40 "no agent of $one to be connected to $two any more" peer_is_gone
run "$causeway" clustermesh status --context "$one"
show "$one,$two" 4
good "traffic went on, before and after the agents noticed"

heading "The link is restored"
run "$causeway" lab link restore "$one" "$two"
run "$causeway" clustermesh status --context "$one" --wait --wait-duration 60s
show "$one,$two" 4
good "connected again, and nothing was lost"

if [ "$keep" = yes ]; then
    heading "The lab stays up. What to try"
    cat <<TRY
    export KUBECONFIG=$KUBECONFIG CAUSEWAY_LAB=demo PATH=$(dirname "$causeway"):$repo/.tools/bin:\$PATH
    kubectl --context $two -n shop get pods -o wide -w
    causeway lab status
    causeway lab exec --cluster $one -n shop client -- causeway lab workload request http://$address --count 20
    kubectl --context $one -n shop scale deployment/web --replicas 5
    causeway lab link cut $one $two
    causeway clustermesh status --context $one
    causeway clustermesh disconnect --context $one --destination-context $two
    causeway lab down
TRY
else
    heading "Everything is taken down"
    run "$causeway" lab down
    up=no
fi
printf '\n%s%sThe demo succeeded: everything shown was checked, in %d s.%s\n' "$bold" "$green" "$SECONDS" "$plain"
