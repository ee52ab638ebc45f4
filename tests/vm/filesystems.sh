# A repository on file systems of other kinds: without hard links, without owners, read-only.
. /job/lib.sh
make_tree /data/src
for kind in vfat exfat xfs btrfs; do
    disk=/data/$kind.img point=/mnt/$kind
    truncate -s 400M $disk
    mkfs.$kind $disk >/dev/null
    mkdir -p $point
    mount -o loop $disk $point
    export TRESOR_REPOSITORY=$point/repo
    tresor init -q --parity 5%
    tresor backup -q /data/src
    echo more >>/data/src/d/e/f9
    tresor backup -q /data/src
    tresor check -q --read-data
    tresor forget -q --keep-last 1 --prune --grace 0
    tresor check -q --read-data
    rm -rf /data/out
    tresor restore -q latest:/data/src --target /data/out
    same /data/src /data/out
    [ -z "$(find $point/repo -name '.tmp-*')" ] || fail "something is left behind"
    umount $point

    mount -o loop,ro $disk $point
    tresor check -q
    ! tresor backup -q /data/src 2>/data/said || fail "it could be written"
    grep -q "mounted read-only" /data/said || fail "$(cat /data/said)"
    umount $point
    rm $disk
    echo "$kind is well"
done
