#!/usr/bin/env bash
# Guess: tools that make hard links of equal files take files with different extended attributes for different.
# Seen, Debian 12: hardlink of util-linux 2.38.1, rdfind 1.5.0-1.1+b1, jdupes 1.21.3-1+deb12u1. Two files of the same content, owner, mode and time, and
# with different attributes, become one; the attribute of the other is gone. Only `hardlink -X` looks at them.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
get() { apt-get download -qq "$@" || { apt-get update -qq && apt-get download -qq "$@"; }; }
get util-linux=2.38.1-5+deb12u3 rdfind=1.5.0-1.1+b1 jdupes=1.21.3-1+deb12u1 attr=1:2.5.1-4 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
export PATH="$dir/root/usr/bin:$PATH"
for tool in "hardlink" "hardlink -X" "rdfind -makehardlinks true" "jdupes -L -q"; do
    mkdir files
    for n in 1 2; do
        seq 20 >files/$n
        setfattr -n user.record -v "of $n" files/$n
        touch -d '2020-01-01 00:00:00' files/$n
    done
    (cd files && $tool . >/dev/null)
    echo "$tool: links $(stat -c %h files/2), attribute $(getfattr --only-values -n user.record files/2 2>/dev/null)"
    rm -r files
done | tee seen
printf '%s\n' "hardlink: links 2, attribute of 1" "hardlink -X: links 1, attribute of 2" \
    "rdfind -makehardlinks true: links 2, attribute of 1" "jdupes -L -q: links 2, attribute of 1" | diff - seen
echo "as found"
