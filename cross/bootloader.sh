#!/bin/bash
# bootloader.sh [--check]: builds the boot loader's blobs (seimage/bootloader/*.bin)
# from their sources, or checks that the committed ones are what the sources give.
# Wants Debian's gcc-s390x-linux-gnu.
set -euo pipefail
cd "$(dirname "$0")/../seimage/bootloader/src"
tool=s390x-linux-gnu-
command -v ${tool}gcc >/dev/null || { echo "bootloader.sh: no ${tool}gcc: apt-get install gcc-s390x-linux-gnu" >&2; exit 1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
flags=(-m64 -march=z10 -mtune=z10 -msoft-float -Os -ffreestanding -fno-builtin -fno-pic -fno-pie -fno-stack-protector
	-fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -Wall -Wextra -Werror -std=gnu11)

# link NAME BASE SOURCE...
link() {
	local name=$1 base=$2 src objects=()
	shift 2
	for src in "$@"; do
		${tool}gcc "${flags[@]}" -c -o "$out/$name-$src.o" "$src"
		objects+=("$out/$name-$src.o")
	done
	${tool}ld -nostdlib --build-id=none --no-warn-rwx-segments --defsym=BASE="$base" -T stage.lds -o "$out/$name.elf" "${objects[@]}"
	${tool}objcopy -O binary "$out/$name.elf" "$out/$name.bin"
}
link entry 0x10000 entry.S
link stage3a 0x11000 start3a.S stage3a.c console.c
link stage3b 0x8000 start3b.S stage3b.c console.c

for blob in entry stage3a stage3b; do
	if [[ ${1:-} == --check ]]; then
		cmp "$out/$blob.bin" "../$blob.bin" || { echo "bootloader.sh: $blob.bin is not what its sources give: run make bootloader" >&2; exit 1; }
	else
		cp "$out/$blob.bin" "../$blob.bin"
		echo "$blob.bin: $(stat -c %s "../$blob.bin") bytes"
	fi
done
