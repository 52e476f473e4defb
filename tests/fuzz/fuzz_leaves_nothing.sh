#!/usr/bin/env bash
# fuzz.sh with a target that crashes: it fails, says where the input is, keeps that and none of the target's other files;
# ctest runs it (label fuzz).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/target" << 'END'
#!/usr/bin/env bash
for option; do [[ $option != -artifact_prefix=* ]] || echo input > "${option#*=}crash-1"; done
mkdir "$TMPDIR/lema_fuzz_1"
echo "$TMPDIR" > "${0%/*}/scratch"
kill -ABRT $$
END
chmod +x "$folder/target"
if "$here/fuzz.sh" "$folder/target" json 1 > "$folder/log" 2> /dev/null; then exit 1; fi
found=$(sed -n 's/the input is in //p' "$folder/log")
[[ $(< "$found/crash-1") == input ]]
rm -r "$found"
scratch=$(< "$folder/scratch")
[[ -n $scratch && ! -e $scratch ]]
