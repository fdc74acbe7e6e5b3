# What the end-to-end tests share: a temporary folder, a tiny text and configuration, and checks that count.
set -uo pipefail
rwkv=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect CODE TEXT COMMAND...: the command ends with CODE and its output holds TEXT; without a trace of ours.
expect() {
  local code=$1 text=$2 out status
  shift 2
  out=$("$@" 2>&1)
  status=$?
  [ "$status" = "$code" ] || fail "'$*' ended with $status instead of $code: $out"
  grep -qF -- "$text" <<<"$out" || fail "'$*' does not say '$text' but: $out"
  if [ "$code" = 2 ] && [ "$(grep -c '^rwkv: ' <<<"$out")" != 1 ]; then fail "'$*' says no single line of error: $out"; fi
  if [ "$code" = 2 ] && grep -q 'internal error' <<<"$out"; then fail "'$*': $out"; fi
}

# tiny_config FILE OUT_DIR STEPS: a model that trains in a second or two.
tiny_config() {
  [ -f text.txt ] || for i in $(seq 600); do echo "Entry $i. The cat sat on the mat, and the dog on the log."; done >text.txt
  cat >"$1" <<YAML
model: {n_layer: 2, n_embd: 32}
data: {kind: bytes, path: text.txt}
train: {out_dir: $2, ctx_len: 32, micro_bsz: 4, max_steps: $3, threads: 1}
schedule: {unit: steps, segments: [{until: $3, lr: {exp: [1.0e-2, 1.0e-3]}}], warmup: {steps: 5}}
validation: {tail_tokens: 4000, windows: 16}
checkpoint: {every: 10, keep_last: 2}
YAML
}

# children PID: the processes that it started
children() { for stat in /proc/[0-9]*/stat; do sed -nE "s/^([0-9]+) \(.*\) . $1 .*/\1/p" "$stat" 2>/dev/null; done; }

finish() {
  [ "$failures" = 0 ] || { echo "$failures checks failed"; exit 1; }
  echo "all checks passed"
}
