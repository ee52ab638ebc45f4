# A line of /etc/fstab with systemd's automount.
. /job/lib.sh
make_tree /data/src
tresor init -q
tresor backup -q /data/src
ln -s /job/tresor /sbin/mount.fuse.tresor
mkdir -p /mnt/restore
echo "tresor:/data/repo /mnt/restore fuse.tresor password-file=/root/password,allow_other,noauto,nofail,x-systemd.automount,x-systemd.idle-timeout=5s 0 0" >>/etc/fstab
systemctl daemon-reload
systemctl start mnt-restore.automount
is_active() { systemctl -q is-active "mnt-restore.$1"; }
for round in 1 2 3; do
    ! is_active mount || fail "it is mounted before anybody looks"
    same /data/src /mnt/restore/snapshots/latest/data/src
    is_active mount || fail "it isn't mounted"
    # Nobody looks any more.
    is_idle() { ! is_active mount; }
    within 60 is_idle
    is_over() { ! pgrep -x tresor >/dev/null; }
    within 30 is_over
    is_active automount || fail "the automount is gone"
    echo "round $round is well"
done

echo "# its program dies"
ls /mnt/restore >/dev/null
pkill -9 tresor
# What the kernel has been told last it may go on telling for a moment.
is_dead() { ! ls /mnt/restore >/dev/null 2>&1; }
within 10 is_dead
tresor umount /mnt/restore
same /data/src /mnt/restore/snapshots/latest/data/src
systemctl stop mnt-restore.mount mnt-restore.automount
! is_mounted /mnt/restore || fail "something is left"

echo "# by hand"
mount /mnt/restore
same /data/src /mnt/restore/snapshots/latest/data/src
umount /mnt/restore
! is_mounted /mnt/restore || fail "something is left"
