//! The escape suite: what a program may try to get out of its sandbox, to gain rights, to see the host or to
//! leave something behind, with the kernel's answer to each. As root and as an ordinary user, the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use skep::tree::Node;
use skep_test_support::has_busybox;

use crate::bench::Bench;
use crate::inside::{Answer, INSIDE, attempt, call, file, read, text, write, zeroes};

const AT_FDCWD: i64 = libc::AT_FDCWD as i64;
const CREATE: i64 = (libc::O_CREAT | libc::O_WRONLY) as i64;
const SETUID: i64 = 0o4755;
const SETGID: i64 = 0o2755;
const SETUID_FILE: i64 = libc::S_IFREG as i64 | SETUID;
const NEW_USER: i64 = libc::CLONE_NEWUSER as i64;

/// What is tried, how, and what comes of it; some have two, by the kernel or by what looked there before. The tables below stay tables: one attempt, one row.
type Attempt = (&'static str, fn() -> Answer, &'static str);

#[rustfmt::skip]
const MOUNTS: &[Attempt] = &[
    ("mount a tmpfs", || call(libc::SYS_mount, &[text("t"), text("/tmp"), text("tmpfs"), 0, 0]), "EPERM"),
    ("mount /proc anew", || call(libc::SYS_mount, &[text("proc"), text("/proc"), text("proc"), 0, 0]), "EPERM"),
    ("bind the root", || call(libc::SYS_mount, &[text("/"), text("/tmp"), 0, libc::MS_BIND as i64, 0]), "EPERM"),
    (
        "make the root writable",
        || call(libc::SYS_mount, &[0, text("/"), 0, (libc::MS_REMOUNT | libc::MS_BIND) as i64, 0]),
        "EPERM",
    ),
    ("unmount /proc", || call(libc::SYS_umount2, &[text("/proc"), 0]), "EPERM"),
    ("detach an input", || call(libc::SYS_umount2, &[text("/bin"), libc::MNT_DETACH as i64]), "EPERM"),
    ("pivot the root", || call(libc::SYS_pivot_root, &[text("/tmp"), text("/tmp")]), "EPERM"),
    ("change the root", || call(libc::SYS_chroot, &[text("/tmp")]), "EPERM"),
    ("clone a mount", || call(libc::SYS_open_tree, &[AT_FDCWD, text("/bin"), 1]), "EPERM"),
    ("clone a mount with attributes", || call(467, &[AT_FDCWD, text("/bin"), 1, zeroes(32), 32]), "EPERM"),
    ("move a mount", || call(libc::SYS_move_mount, &[AT_FDCWD, text("/bin"), AT_FDCWD, text("/tmp"), 0]), "EPERM"),
    ("open a file system", || call(libc::SYS_fsopen, &[text("tmpfs"), 0]), "EPERM"),
    ("configure a file system", || call(libc::SYS_fsconfig, &[0, 6, 0, 0, 0]), "EPERM"),
    ("mount a file system's context", || call(libc::SYS_fsmount, &[0, 0, 0]), "EPERM"),
    ("pick a file system", || call(libc::SYS_fspick, &[AT_FDCWD, text("/"), 0]), "EPERM"),
    (
        "change a mount's attributes",
        || call(libc::SYS_mount_setattr, &[AT_FDCWD, text("/bin"), 0, zeroes(32), 32]),
        "EPERM",
    ),
];

#[rustfmt::skip]
const NAMESPACES: &[Attempt] = &[
    ("unshare the user namespace", || call(libc::SYS_unshare, &[NEW_USER]), "EPERM"),
    ("unshare mounts", || call(libc::SYS_unshare, &[libc::CLONE_NEWNS.into()]), "EPERM"),
    ("unshare the network", || call(libc::SYS_unshare, &[libc::CLONE_NEWNET.into()]), "EPERM"),
    ("clone into a user namespace", || call(libc::SYS_clone, &[NEW_USER | 17]), "EPERM"),
    ("clone into a pid namespace", || call(libc::SYS_clone, &[(libc::CLONE_NEWPID | 17).into()]), "EPERM"),
    ("clone3", || call(libc::SYS_clone3, &[zeroes(88), 88]), "ENOSYS"),
    ("enter a namespace", || {
        let namespace = call(libc::SYS_openat, &[AT_FDCWD, text("/proc/self/ns/net"), 0])?;
        call(libc::SYS_setns, &[namespace, 0])
    }, "EPERM"),
    ("map more users", || write("/proc/self/uid_map"), "EROFS"),
    ("allow groups", || write("/proc/self/setgroups"), "EROFS"),
];

#[rustfmt::skip]
const PROCESSES: &[Attempt] = &[
    ("trace process 1", || call(libc::SYS_ptrace, &[libc::PTRACE_ATTACH.into(), 1]), "EPERM"),
    ("read the memory of process 1", || {
        let memory = [zeroes(8), 8];
        call(libc::SYS_process_vm_readv, &[1, memory.as_ptr() as i64, 1, memory.as_ptr() as i64, 1])
    }, "EPERM"),
    ("take a descriptor of process 1", || {
        let process = call(libc::SYS_pidfd_open, &[1, 0])?;
        call(libc::SYS_pidfd_getfd, &[process, 0, 0])
    }, "EPERM"),
    ("compare with process 1", || call(libc::SYS_kcmp, &[1, std::process::id().into(), 1]), "EPERM"),
    ("limit process 1", || call(libc::SYS_prlimit64, &[1, 7, zeroes(16), 0]), "EPERM"),
    ("open the directory of process 1", || read("/proc/1/root/bin/busybox"), "ENOENT or EPERM"),
    ("read the arguments of process 1", || read("/proc/1/cmdline"), "ENOENT or EPERM"),
    // Process 1 of a pid namespace does not hear its children's signals.
    ("kill process 1", || call(libc::SYS_kill, &[1, libc::SIGKILL.into()]), "ok 0"),
    ("signal a process of the host", || call(libc::SYS_kill, &[4_000_000, 0]), "ESRCH"),
    ("signal the parent's group", || call(libc::SYS_kill, &[-4_000_000, libc::SIGKILL.into()]), "ESRCH"),
    ("open a process of the host", || call(libc::SYS_pidfd_open, &[4_000_000, 0]), "ESRCH"),
    ("escape the kernel's choice when memory ends", || write("/proc/self/oom_score_adj"), "EROFS"),
    ("read the kernel's log", || call(libc::SYS_syslog, &[3, zeroes(4096), 4096]), "EPERM"),
];

#[rustfmt::skip]
const PROC: &[Attempt] = &[
    ("boot id", || read("/proc/sys/kernel/random/boot_id"), "ENOENT"),
    ("host name setting", || write("/proc/sys/kernel/hostname"), "ENOENT"),
    ("core pattern", || write("/proc/sys/kernel/core_pattern"), "ENOENT"),
    ("sysrq", || write("/proc/sysrq-trigger"), "ENOENT"),
    ("kernel memory", || read("/proc/kcore"), "ENOENT"),
    ("kernel symbols", || read("/proc/kallsyms"), "ENOENT"),
    ("kernel command line", || read("/proc/cmdline"), "ENOENT"),
    ("kernel configuration", || read("/proc/config.gz"), "ENOENT"),
    ("kernel version", || read("/proc/version"), "ENOENT"),
    ("kernel modules", || read("/proc/modules"), "ENOENT"),
    ("keys", || read("/proc/keys"), "ENOENT"),
    ("partitions", || read("/proc/partitions"), "ENOENT"),
    ("disks", || read("/proc/diskstats"), "ENOENT"),
    ("swap areas", || read("/proc/swaps"), "ENOENT"),
    ("interrupts", || read("/proc/interrupts"), "ENOENT"),
    ("devices", || read("/proc/devices"), "ENOENT"),
    ("pressure", || read("/proc/pressure/cpu"), "ENOENT"),
    ("segments of the host", || read("/proc/sysvipc/shm"), "ENOENT"),
    ("devices of the kernel", || read("/sys/kernel/uevent_seqnum"), "ENOENT"),
    ("own memory", || write("/proc/self/mem"), "EROFS"),
];

#[rustfmt::skip]
const KERNEL: &[Attempt] = &[
    ("add a key", || call(libc::SYS_add_key, &[text("user"), text("k"), text("v"), 1, -3]), "EPERM"),
    ("find a key", || call(libc::SYS_keyctl, &[0, -3, 1]), "EPERM"),
    ("request a key", || call(libc::SYS_request_key, &[text("user"), text("k"), 0, -3]), "EPERM"),
    ("set up io_uring", || call(libc::SYS_io_uring_setup, &[8, zeroes(120)]), "EPERM"),
    ("enter io_uring", || call(libc::SYS_io_uring_enter, &[0, 1, 0, 0]), "EPERM"),
    ("register with io_uring", || call(libc::SYS_io_uring_register, &[0, 0, 0, 0]), "EPERM"),
    ("userfaultfd", || call(libc::SYS_userfaultfd, &[1]), "EPERM"),
    ("userfaultfd's device", || write("/dev/userfaultfd"), "ENOENT"),
    ("load a BPF program", || call(libc::SYS_bpf, &[5, zeroes(128), 128]), "EPERM"),
    ("open a performance counter", || call(libc::SYS_perf_event_open, &[zeroes(128), 0, -1, -1, 0]), "EPERM"),
    ("name a handle", || {
        call(libc::SYS_name_to_handle_at, &[AT_FDCWD, text("/out"), zeroes(128), zeroes(8), 0])
    }, "EPERM"),
    ("open by a handle", || call(libc::SYS_open_by_handle_at, &[3, zeroes(128), 0]), "EPERM"),
    ("load a module", || call(libc::SYS_init_module, &[zeroes(8), 8, text("")]), "EPERM"),
    ("load a module's file", || call(libc::SYS_finit_module, &[0, text(""), 0]), "EPERM"),
    ("remove a module", || call(libc::SYS_delete_module, &[text("loop"), 0]), "EPERM"),
    ("load another kernel", || call(libc::SYS_kexec_load, &[0, 0, 0, 0]), "EPERM"),
    ("restart the machine", || call(libc::SYS_reboot, &[0xfee1_dead, 672_274_793, 0x0123_4567, 0]), "EPERM"),
    ("swap", || call(libc::SYS_swapon, &[text("/out/file"), 0]), "EPERM"),
    ("account processes", || call(libc::SYS_acct, &[0]), "EPERM"),
    ("set a quota", || call(libc::SYS_quotactl, &[0, 0, 0, 0]), "EPERM"),
    ("set a quota by descriptor", || call(libc::SYS_quotactl_fd, &[0, 0, 0, 0]), "EPERM"),
    ("set the host name", || call(libc::SYS_sethostname, &[text("x"), 1]), "EPERM"),
    ("set the domain name", || call(libc::SYS_setdomainname, &[text("x"), 1]), "EPERM"),
    ("another personality", || call(libc::SYS_personality, &[0]), "EPERM"),
    ("addresses are not randomized", || call(libc::SYS_personality, &[0xffff_ffff]), "ok 262144"),
    ("a call that is not known", || call(400_000, &[]), "ENOSYS"),
];

#[rustfmt::skip]
const SET_ID: &[Attempt] = &[
    ("fchmod setuid", || call(libc::SYS_fchmod, &[file(), SETUID]), "EPERM"),
    ("fchmod setgid", || call(libc::SYS_fchmod, &[file(), SETGID]), "EPERM"),
    ("fchmodat", || { file(); call(libc::SYS_fchmodat, &[AT_FDCWD, text("/out/file"), SETUID]) }, "EPERM"),
    ("fchmodat2", || { file(); call(452, &[AT_FDCWD, text("/out/file"), SETGID, 0]) }, "EPERM"),
    ("openat", || call(libc::SYS_openat, &[AT_FDCWD, text("/out/new"), CREATE, SETUID]), "EPERM"),
    ("openat of a nameless file", || {
        let flags = libc::O_TMPFILE | libc::O_WRONLY;
        call(libc::SYS_openat, &[AT_FDCWD, text("/out"), flags.into(), SETUID])
    }, "EPERM"),
    ("openat2", || {
        let how = [(CREATE as u64), SETUID as u64, 0];
        call(libc::SYS_openat2, &[AT_FDCWD, text("/out/new"), how.as_ptr() as i64, 24])
    }, "ENOSYS"),
    ("mkdirat", || call(libc::SYS_mkdirat, &[AT_FDCWD, text("/out/dir"), SETGID]), "EPERM"),
    ("mknodat", || call(libc::SYS_mknodat, &[AT_FDCWD, text("/out/new"), SETUID_FILE, 0]), "EPERM"),
    ("mq_open", || {
        call(libc::SYS_mq_open, &[text("queue"), (libc::O_CREAT | libc::O_RDWR).into(), 0o4600, 0])
    }, "EPERM"),
    ("file capabilities", || {
        // `vfs_cap_data` of revision 2 with CAP_SETUID permitted and effective.
        let data: [u32; 5] = [0x0200_0001, 1 << 7, 0, 0, 0];
        call(libc::SYS_fsetxattr, &[file(), text("security.capability"), data.as_ptr() as i64, 20, 0])
    }, "EPERM"),
    ("a trusted attribute", || {
        call(libc::SYS_fsetxattr, &[file(), text("trusted.x"), text("x"), 1, 0])
    }, "EPERM"),
    ("an ordinary mode", || call(libc::SYS_fchmod, &[file(), 0o755]), "ok 0"),
    ("a sticky directory", || call(libc::SYS_mkdirat, &[AT_FDCWD, text("/out/sticky"), 0o1777]), "ok 0"),
    ("reading with a mode that does not count", || {
        call(libc::SYS_openat, &[AT_FDCWD, text("/bin/busybox"), 0, SETUID]).map(|_| 0)
    }, "ok 0"),
    ("what an output's directory gives on", || {
        std::fs::create_dir("/out/child").and_then(|()| std::fs::metadata("/out/child"))
            .map(|metadata| i64::from(metadata.mode() & 0o6000))
    }, "ok 0"),
    ("become root", || call(libc::SYS_setuid, &[0]), "EINVAL"),
    ("join root's group", || call(libc::SYS_setgid, &[0]), "EINVAL"),
    ("set groups", || call(libc::SYS_setgroups, &[0, 0]), "EPERM"),
    ("take capabilities", || {
        let header: [u32; 2] = [0x2008_0522, 0];
        let sets = [u32::MAX; 6];
        call(libc::SYS_capset, &[header.as_ptr() as i64, sets.as_ptr() as i64])
    }, "EPERM"),
    ("allow new privileges", || call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS.into(), 0]), "EINVAL"),
    ("give a file away", || call(libc::SYS_fchown, &[file(), 0, 0]), "EINVAL"),
];

#[rustfmt::skip]
const FILES: &[Attempt] = &[
    ("a character device", || {
        call(libc::SYS_mknodat, &[AT_FDCWD, text("/out/c"), i64::from(libc::S_IFCHR) | 0o666, 0x0103])
    }, "EPERM"),
    ("a block device", || {
        call(libc::SYS_mknodat, &[AT_FDCWD, text("/out/b"), i64::from(libc::S_IFBLK) | 0o666, 0x0800])
    }, "EPERM"),
    ("a whiteout", || {
        call(libc::SYS_mknodat, &[AT_FDCWD, text("/out/w"), i64::from(libc::S_IFCHR), 0])
    }, "EPERM"),
    ("a whiteout by renaming", || {
        file();
        call(libc::SYS_renameat2, &[AT_FDCWD, text("/out/file"), AT_FDCWD, text("/out/moved"), 4])
    }, "EPERM"),
    ("a fifo", || {
        call(libc::SYS_mknodat, &[AT_FDCWD, text("/tmp/fifo"), i64::from(libc::S_IFIFO) | 0o600, 0])
    }, "ok 0"),
    ("memory's device", || read("/dev/mem"), "ENOENT"),
    ("the device of the kernel's log", || read("/dev/kmsg"), "ENOENT"),
    ("a disk", || read("/dev/vda"), "ENOENT"),
    ("a control group", || read("/sys/fs/cgroup/cgroup.procs"), "ENOENT"),
    ("hard link of an input", || link("/in/file", "/out/linked"), "EXDEV"),
    ("hard link between inputs", || link("/in/file", "/in/linked"), "EROFS"),
    ("hard link of a descriptor", || {
        let input = call(libc::SYS_openat, &[AT_FDCWD, text("/in/file"), libc::O_PATH.into()])?;
        let flags = libc::AT_SYMLINK_FOLLOW.into();
        call(libc::SYS_linkat, &[AT_FDCWD, text(&format!("/proc/self/fd/{input}")), AT_FDCWD, text("/out/l"), flags])
    }, "EXDEV"),
    ("write an input", || write("/in/file"), "EROFS"),
    ("write an input through a descriptor", || {
        let input = call(libc::SYS_openat, &[AT_FDCWD, text("/in/file"), 0])?;
        write(&format!("/proc/self/fd/{input}"))
    }, "EROFS"),
    ("truncate an input", || call(libc::SYS_truncate, &[text("/in/file"), 0]), "EROFS"),
    ("remove an input", || call(libc::SYS_unlinkat, &[AT_FDCWD, text("/in/file"), 0]), "EROFS"),
    ("rename an input", || {
        call(libc::SYS_renameat2, &[AT_FDCWD, text("/in/file"), AT_FDCWD, text("/in/other"), 0])
    }, "EROFS"),
    ("date an input", || call(libc::SYS_utimensat, &[AT_FDCWD, text("/in/file"), 0, 0]), "EROFS"),
    ("change an input's mode", || call(libc::SYS_fchmodat, &[AT_FDCWD, text("/in/file"), 0o777]), "EROFS"),
    ("tag an input", || {
        let input = call(libc::SYS_openat, &[AT_FDCWD, text("/in/file"), 0])?;
        call(libc::SYS_fsetxattr, &[input, text("user.x"), text("x"), 1, 0])
    }, "EROFS"),
    ("make a file in the root", || call(libc::SYS_openat, &[AT_FDCWD, text("/new"), CREATE, 0o644]), "EROFS"),
    ("make a file in /dev", || call(libc::SYS_openat, &[AT_FDCWD, text("/dev/new"), CREATE, 0o644]), "EROFS"),
    ("change a device's mode", || call(libc::SYS_fchmodat, &[AT_FDCWD, text("/dev/null"), 0o600]), "EPERM"),
    ("go above the root", || read("/../../../../etc/shadow"), "ENOENT"),
    ("descriptors besides the first three", || {
        // Those of this look, and of the pipe to the attempt's parent.
        let names = std::fs::read_dir("/proc/self/fd")?.flatten();
        let targets = names.map(|name| std::fs::read_link(name.path()).unwrap_or_default());
        let foreign = |target: &std::path::PathBuf| {
            let target = target.to_string_lossy();
            !(target.starts_with("pipe:") || target.starts_with("/proc/") || target == "/dev/null")
        };
        Ok(targets.filter(foreign).count() as i64)
    }, "ok 0"),
];

#[rustfmt::skip]
const SOCKETS: &[Attempt] = &[
    ("a socket of any other family", || of_families(libc::SYS_socket, &[]), "ok 0"),
    ("a pair of sockets of any other family", || of_families(libc::SYS_socketpair, &[zeroes(8)]), "ok 0"),
    ("a raw socket", || socket(libc::AF_INET, libc::SOCK_RAW, 1), "EPERM"),
    ("a raw socket of IPv6", || socket(libc::AF_INET6, libc::SOCK_RAW, 58), "EPERM"),
    ("a virtual machine's host", || socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0), "EPERM"),
    ("the kernel's cryptography", || socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0), "EPERM"),
    ("packets of a device", || socket(libc::AF_PACKET, libc::SOCK_RAW, 0), "EPERM"),
    ("the host's network", || {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        // 192.0.2.1, port 80.
        let address: [u8; 16] = [2, 0, 0, 80, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        call(libc::SYS_connect, &[socket, address.as_ptr() as i64, 16])
    }, "ENETUNREACH"),
    ("an abstract socket of the host", || {
        let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        let address = b"\x01\x00\0/tmp/.X11-unix/X0";
        call(libc::SYS_connect, &[socket, address.as_ptr() as i64, address.len() as i64])
    }, "ECONNREFUSED"),
    ("docker's socket", || read("/var/run/docker.sock"), "ENOENT"),
    ("another network device", || {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut request = *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        call(libc::SYS_ioctl, &[socket, libc::SIOCSIFFLAGS as i64, request.as_mut_ptr() as i64])
    }, "EPERM"),
];

#[rustfmt::skip]
const REST: &[Attempt] = &[
    ("set the clock", || call(libc::SYS_clock_settime, &[0, zeroes(16)]), "EPERM"),
    ("set the time of day", || call(libc::SYS_settimeofday, &[zeroes(16), 0]), "EPERM"),
    ("adjust the clock", || {
        let change = Box::leak(Box::new([0_u64; 64]));
        change[0] = 1; // ADJ_OFFSET
        call(libc::SYS_adjtimex, &[change.as_ptr() as i64])
    }, "EPERM"),
    ("wake the machine", || call(libc::SYS_timer_create, &[8, 0, zeroes(8)]), "EPERM or ENOTSUP"),
    ("the terminal", || write("/dev/tty"), "ENOENT"),
    ("a new terminal", || write("/dev/ptmx"), "ENOENT"),
    ("type into a terminal", || call(libc::SYS_ioctl, &[0, libc::TIOCSTI as i64, text("x")]), "EPERM"),
    ("paste into a console", || call(libc::SYS_ioctl, &[0, libc::TIOCLINUX as i64, text("\x03")]), "EPERM"),
    ("hang a terminal up", || call(libc::SYS_vhangup, &[]), "EPERM"),
    ("more processes", || raise(libc::RLIMIT_NPROC as i64), "EPERM"),
    ("larger files", || raise(libc::RLIMIT_FSIZE as i64), "EPERM"),
    ("more descriptors", || raise(libc::RLIMIT_NOFILE as i64), "EPERM"),
    ("core dumps", || raise(libc::RLIMIT_CORE as i64), "EPERM"),
    ("a higher priority", || call(libc::SYS_setpriority, &[0, 0, -20]), "EACCES"),
    ("real-time scheduling", || call(libc::SYS_sched_setscheduler, &[0, 1, [1_i32].as_ptr() as i64]), "EPERM"),
    ("a higher priority for disks", || call(libc::SYS_ioprio_set, &[1, 0, 1 << 13]), "EPERM"),
    ("signals that are ignored or caught", || dispositions(), "ok 0"),
    ("signals that are blocked", || {
        let mut set = 0_u64;
        call(libc::SYS_rt_sigprocmask, &[0, 0, (&raw mut set) as i64, 8])?;
        Ok(set as i64)
    }, "ok 0"),
];

/// Calls that only x86_64 has, and those of its other two ABIs.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD: &[Attempt] = &[
    ("chmod setuid", || { file(); call(libc::SYS_chmod, &[text("/out/file"), SETUID]) }, "EPERM"),
    ("chmod setgid", || { file(); call(libc::SYS_chmod, &[text("/out/file"), SETGID]) }, "EPERM"),
    ("open setuid", || call(libc::SYS_open, &[text("/out/new"), CREATE, SETUID]), "EPERM"),
    ("creat setuid", || call(libc::SYS_creat, &[text("/out/new"), SETUID]), "EPERM"),
    ("mkdir setgid", || call(libc::SYS_mkdir, &[text("/out/dir"), SETGID]), "EPERM"),
    ("mknod setuid", || call(libc::SYS_mknod, &[text("/out/new"), SETUID_FILE, 0]), "EPERM"),
    ("mknod a device", || call(libc::SYS_mknod, &[text("/out/c"), libc::S_IFCHR.into(), 0]), "EPERM"),
    ("ports", || call(libc::SYS_iopl, &[3]), "EPERM or ENOSYS"),
    ("chmod by an x32 number", || { file(); call(0x4000_0000 | 90, &[text("/out/file"), SETUID]) }, "EPERM"),
    ("an x32 number of its own", || call(0x4000_0000 | 512, &[]), "EPERM"),
    ("the highest number", || call(-1, &[]), "EPERM"),
    ("a call of i386", crate::inside::i386, "signal 31"),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[Attempt] = &[];

fn table() -> impl Iterator<Item = &'static Attempt> {
    [
        MOUNTS, NAMESPACES, PROCESSES, PROC, KERNEL, SET_ID, FILES, SOCKETS, REST, OLD,
    ]
    .into_iter()
    .flatten()
}

fn link(from: &str, to: &str) -> Answer {
    call(libc::SYS_linkat, &[AT_FDCWD, text(from), AT_FDCWD, text(to), 0])
}

fn socket(family: i32, kind: i32, protocol: i64) -> Answer {
    call(libc::SYS_socket, &[family.into(), kind.into(), protocol])
}

/// How many families but those that a program has for itself answer otherwise than EPERM.
fn of_families(number: i64, rest: &[i64]) -> Answer {
    let own = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let kinds = [
        libc::SOCK_STREAM,
        libc::SOCK_DGRAM,
        libc::SOCK_RAW,
        libc::SOCK_SEQPACKET,
    ];
    let foreign = (0..64).filter(|family| !own.contains(family));
    let pairs = foreign.flat_map(|family| kinds.map(|kind| (family, kind)));
    let passed = pairs.filter(|(family, kind)| {
        let arguments = [&[i64::from(*family), i64::from(*kind), 0], rest].concat();
        call(number, &arguments).map_err(|error| error.raw_os_error()) != Err(Some(libc::EPERM))
    });
    Ok(passed.count() as i64)
}

fn raise(resource: i64) -> Answer {
    let limit = [u64::MAX; 2];
    call(libc::SYS_prlimit64, &[0, resource, limit.as_ptr() as i64, 0])
}

/// Which signals do not have their default action, but for those of this program.
fn dispositions() -> Answer {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = |field: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap_or("1");
        u64::from_str_radix(line.trim(), 16).unwrap_or(u64::MAX)
    };
    // Rust's runtime ignores SIGPIPE (13) and catches SIGBUS (7) and SIGSEGV (11), in this program as in any; the C
    // library catches 33.
    let ignored = mask("SigIgn:") & !(1 << 12);
    let caught = mask("SigCgt:") & !((1 << 6) | (1 << 10) | (1 << 32));
    Ok((ignored | caught) as i64)
}

/// In the sandbox: makes every attempt, and prints what came of it.
#[test]
fn attempts_inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    for (name, make, _) in table() {
        println!("\nattempt\t{name}\t{}", attempt(*make));
    }
}

#[test]
fn no_attempt_to_escape_succeeds() {
    if !has_busybox() || std::env::var_os(INSIDE).is_some() {
        return;
    }
    let mut bench = Bench::new("");
    bench.file("in/file", "content");
    let tests = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let (digest, executable) = (bench.store.put(&tests).unwrap(), true);
    bench.input("tests", Node::File { digest, executable });
    let argv = [
        "/tests",
        "--exact",
        "escape::attempts_inside",
        "--nocapture",
        "--test-threads=1",
    ];
    bench.command.argv = argv.map(str::to_owned).into();
    bench.command.env.insert(INSIDE.to_owned(), "1".to_owned());
    let printed = bench.printed();
    let answers: BTreeMap<&str, &str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("attempt\t")?.split_once('\t'))
        .collect();
    let expected: BTreeMap<&str, &str> = table().map(|(name, _, expected)| (*name, *expected)).collect();
    assert!(
        expected.len() >= 60 && expected.len() == table().count(),
        "names are not distinct"
    );
    let differing: Vec<String> = expected
        .iter()
        .filter(|(name, expected)| {
            !answers
                .get(*name)
                .is_some_and(|got| expected.split(" or ").any(|one| one == *got))
        })
        .map(|(name, expected)| format!("{name}: expected {expected}, got {:?}", answers.get(name)))
        .collect();
    assert!(differing.is_empty(), "\n{}\n", differing.join("\n"));
}
