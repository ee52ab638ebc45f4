# The kernel's NFS client on `mount --via nfs`, and its server on a drive.
. /job/lib.sh
modprobe nfs
make_tree /data/src
# NFS 3 has no times before 1970.
rm /data/src/d/e/f5
tresor init -q
tresor backup -q /data/src
mkdir -p /mnt/drive /mnt/client

echo "# tresor is the server"
tresor mount -q --via nfs --background latest /mnt/drive
same /data/src /mnt/drive/data/src
! touch /mnt/drive/new 2>/dev/null || fail "it can be written"
df /mnt/drive
tresor umount /mnt/drive
! is_mounted /mnt/drive || fail "it is still there"
echo "# its program dies"
tresor mount -q --via nfs --background latest /mnt/drive
pkill -9 tresor
tresor umount /mnt/drive
tresor mount -q --via nfs --background latest /mnt/drive
pkill -9 tresor
tresor mount -q --via nfs --background latest /mnt/drive
same /data/src /mnt/drive/data/src
tresor umount /mnt/drive

echo "# the kernel is the server"
tresor mount -q --background --allow-other /mnt/drive
echo "/mnt/drive 127.0.0.1(ro,fsid=7,no_subtree_check,crossmnt,no_root_squash)" >/etc/exports
systemctl start nfs-server
exportfs -ra
for version in 3 4; do
    mount -t nfs -o vers=$version,nolock 127.0.0.1:/mnt/drive /mnt/client
    same /data/src /mnt/client/snapshots/latest/data/src
    ls /mnt/client/snapshots/latest/data/src/d/.versions | grep -qx big || fail "no versions"
    echo 3 >/proc/sys/vm/drop_caches
    exec 5<"/mnt/client/snapshots/latest/data/src/d/big"
    head -c 1000 <&5 >/dev/null
    echo more >>/data/src/d/e/f7
    tresor backup -q /data/src
    is_new() { cmp -s /data/src/d/e/f7 /mnt/client/snapshots/latest/data/src/d/e/f7; }
    within 60 is_new
    cmp <(tail -c +1001 /data/src/d/big) - <&5 || fail "what is open can't be read on"
    exec 5<&-
    umount /mnt/client
    echo "version $version is well"
done
systemctl stop nfs-server
tresor umount /mnt/drive
