#!/bin/bash
# fuzz.sh [TIME] [PATTERN]: runs each fuzz target whose "PACKAGE Name" matches
# the pattern for a time (10s), one after the other, and says which found
# something. A finding stays in its package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s} pattern=${2:-.}
failed=() n=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
targets() { # PACKAGE Name, a line each
	local dir
	git grep -lE '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u | while read -r dir; do
		git grep -hoE '^func Fuzz[A-Za-z0-9_]*' -- "$dir/*_test.go" ":!$dir/*/*" | sed "s|^func |./$dir |" | sort
	done
}
while read -r package name; do
	[[ "$package $name" =~ $pattern ]] || continue
	n=$((n + 1))
	if go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 5s "$package" >"$log" 2>&1; then
		printf '%-28s %-28s %s\n' "$package" "$name" "$(grep -oE 'execs: [0-9]+' "$log" | tail -n 1)"
	else
		printf '%-28s %-28s FAILED\n' "$package" "$name"
		tail -n 30 "$log"
		failed+=("$package $name")
	fi
done < <(targets)
((n > 0)) || { echo "no fuzz target matches $pattern" >&2; exit 1; }
((${#failed[@]} == 0)) || { printf 'fuzz: failed: %s\n' "${failed[@]}" >&2; exit 1; }
echo "fuzz: $n targets, $time each, no finding"
