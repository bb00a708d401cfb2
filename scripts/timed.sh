#!/usr/bin/env bash
# Runs a command and says how long it took: scripts/timed.sh NAME COMMAND...
# The exit status is the command's.
set -uo pipefail

name=$1
shift
start=$SECONDS
echo "== $name: $*"
"$@"
status=$?
if [ "$status" -eq 0 ]; then result=ok; else result="FAILED (status $status)"; fi
echo "== $name: $result after $((SECONDS - start)) s"
exit "$status"
