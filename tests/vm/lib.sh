# What the scripts of this folder share; they run in a machine of their own, as root.

modprobe fuse
echo password >/root/password
chmod 600 /root/password
export TRESOR_PASSWORD_FILE=/root/password TRESOR_REPOSITORY=/data/repo

fail() {
    echo "FAILED: $*"
    exit 1
}

# same FOLDER FOLDER: names, kinds, contents, and what `stat` shows.
same() {
    diff -r --no-dereference "$1" "$2" || fail "$2 is not what was saved"
    diff <(shape "$1") <(shape "$2") || fail "$2 has other owners, modes, times or links"
}

shape() {
    (cd "$1" && find . ! -type d -printf '%P %y %m %U %G %s %T@ %n %l\n' | LC_ALL=C sort)
}

make_tree() {
    mkdir -p "$1/d/e" "$1/ü n"
    head -c 3000000 /dev/urandom >"$1/d/big"
    for i in $(seq 300); do echo "$i" >"$1/d/e/f$i"; done
    ln -s d/big "$1/link"
    ln "$1/d/big" "$1/hard"
    truncate -s 100M "$1/sparse"
    echo end >>"$1/sparse"
    setfattr -n user.a -v b "$1/d/big"
    chown 1000:1000 "$1/d/e/f2"
    chmod 4750 "$1/d/e/f3"
    touch -d 2001-01-01 "$1/d/e/f4"
    touch -d 1965-01-01 "$1/d/e/f5"
}

is_mounted() {
    grep -q " $1 " /proc/self/mountinfo
}

# within SECONDS COMMAND…: until it succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "not in time: $*"
        sleep 0.5
    done
}

# tree_of GENERATION FOLDER: files of 1 to 300 KB, of which a fifth differs from the generation before.
tree_of() {
    mkdir -p "$2"
    for k in $(seq 40); do
        yes "file $k as of $((($1 + k) / 5))" 2>/dev/null | head -c $((k * k * 190)) >"$2/$k"
        touch -d "2020-01-01 UTC + $((($1 + k) / 5)) days" "$2/$k"
    done
}
