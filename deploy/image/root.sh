#!/bin/sh
# Make a root file system of Python alone, for the environment in a folder: the interpreter, its
# standard library, the shared libraries that both load, and no program besides: no shell, no
# package manager, nothing that runs as another user.
#
# Usage: root.sh ENVIRONMENT ROOT
set -eu
environment=$1
root=$2

stdlib=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
python=$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')

# cp --parents looks for the parents of what it copies here.
cd /

# Where the base has merged /lib into /usr/lib, so has this.
mkdir -p "$root/usr/lib" "$root/usr/lib64"
for link in lib lib64; do
    if [ -L "/$link" ]; then cp -d "/$link" "$root/"; fi
done

cp -a --parents "$python" "$root"
# The environment's link leads to the name without a version.
ln -sf "$python" "$root$(dirname "$python")/python3"

cp -a --parents "$stdlib" "$root"
cd "$root$stdlib"
# For people, tests, compilers and installers.
rm -rf ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo turtle.py site-packages \
    dist-packages config-* unittest/test distutils/tests
find . -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} +
cd lib-dynload
rm -f _test* _xxtest* xx* readline.* _curses* _tkinter* _dbm* _gdbm* nis.*
cd /

# Without write access byte code is compiled now or at every start. Unchecked: no source changes.
python3 -m compileall -q -s "$root" --invalidation-mode unchecked-hash "$root$stdlib"

{
    echo "$python"
    find "$root$stdlib" "$environment" -name '*.so*' -type f
} | xargs ldd 2>/dev/null | awk '$2 == "=>" { print $3 } $1 ~ "^/.*ld-linux" { print $1 }' |
    sort -u | while read -r library; do
    case $library in
        "$environment"/* | not | "") ;;
        *) cp -L --parents "$library" "$root" ;;
    esac
done
cp --parents /etc/ld.so.cache "$root"

mkdir -p "$root/etc" "$root/tmp" "$root/models"
chmod 1777 "$root/tmp"
cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0::/nonexistent:/usr/sbin/nologin
forwardpass:x:10001:10001::/nonexistent:/usr/sbin/nologin
PASSWD
printf 'root:x:0:\nforwardpass:x:10001:\n' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chown 10001:10001 "$root/models"
