//! The system calls that a confined program may not make. Privileges are gone already; this takes away what
//! gives new ones, what outlives the program, and what reaches deep into the kernel.
//!
//! A call is refused with EPERM, as if to a user without rights. For an action more is refused than for a
//! container ([`Program`]): it cannot set a set-id bit by any call, because what it writes stands in the store
//! while it runs; it cannot make a device, change its personality, or limit process 1. A container is an image
//! that others made, which may hold what does these things, in a directory that only its owner can enter.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// What is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// An action of a build.
    Action,
    /// A service of a preview.
    Container,
}

/// Always refused.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    // The kernel's log is the host's, and many kernels show it to any user.
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Not in the C library's headers yet; the same number on every architecture.
const OPEN_TREE_ATTR: libc::c_long = 467;
const FCHMODAT2: libc::c_long = 452;

/// The last call that was looked at for this table. Later ones do not exist for a confined program.
const LAST: u32 = 469;

/// Numbers from here on are of the x32 ABI, whose calls are those of x86_64 under other numbers.
const X32: u32 = 0x4000_0000;

/// Socket families that are allowed: in a network namespace of its own, a program reaches only itself.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Puts what is typed into a terminal, or what is selected on a console, into another program's input.
const INJECTING: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// The one personality that an action has: addresses are not randomized.
pub(super) const PERSONALITY: u32 = libc::ADDR_NO_RANDOMIZE as u32;

/// A call that gives a file its mode.
struct Moded {
    call: libc::c_long,
    /// Which argument is the mode.
    mode: u8,
    /// Which argument says whether a file is made; `None` where the mode always counts.
    flags: Option<u8>,
}

const fn moded(call: libc::c_long, mode: u8, flags: Option<u8>) -> Moded {
    Moded { call, mode, flags }
}

const MODED: &[Moded] = &[
    moded(libc::SYS_fchmod, 1, None),
    moded(libc::SYS_fchmodat, 2, None),
    moded(FCHMODAT2, 2, None),
    moded(libc::SYS_mkdirat, 2, None),
    moded(libc::SYS_mknodat, 2, None),
    moded(libc::SYS_mq_open, 2, Some(1)),
    moded(libc::SYS_openat, 3, Some(2)),
];

/// Those that only the older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_MODED: &[Moded] = &[
    moded(libc::SYS_chmod, 1, None),
    moded(libc::SYS_creat, 1, None),
    moded(libc::SYS_mkdir, 1, None),
    moded(libc::SYS_mknod, 1, None),
    moded(libc::SYS_open, 2, Some(1)),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_MODED: &[Moded] = &[];

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// The BPF programs to apply, one after the other.
pub(super) fn programs(program: Program) -> Result<Vec<BpfProgram>, BackendError> {
    let mut refused: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let foreign = FAMILIES.iter().map(|family| not(0, *family as u64));
        refused.insert(call, vec![all(foreign)?]);
    }
    let user_namespace = libc::CLONE_NEWUSER as u64;
    refused.insert(libc::SYS_clone, vec![all([has(0, user_namespace)])?]);
    let inject = INJECTING.iter().map(|request| all([is(1, *request)]));
    refused.insert(libc::SYS_ioctl, inject.collect::<Result<_, _>>()?);

    // Their flags are behind a pointer; a C library that is told they are absent takes `clone` and `openat`.
    let mut absent = Rules::from([(libc::SYS_clone3, Vec::new())]);
    if program == Program::Action {
        for moded in MODED.iter().chain(OLD_MODED) {
            refused.insert(moded.call, moded.rules()?);
        }
        let whiteout = all([has(4, libc::RENAME_WHITEOUT.into())])?;
        refused.insert(libc::SYS_renameat2, vec![whiteout]);
        let other = all([not(0, PERSONALITY.into()), not(0, u32::MAX.into())])?;
        refused.insert(libc::SYS_personality, vec![other]);
        // Process 1 has the action's uid, and must be able to say how the action ended.
        refused.insert(libc::SYS_prlimit64, vec![all([is(0, 1)])?]);
        absent.insert(libc::SYS_openat2, Vec::new());
    }
    let mut programs = vec![known_numbers()];
    for (rules, errno) in [(refused, libc::EPERM), (absent, libc::ENOSYS)] {
        let answer = SeccompAction::Errno(errno as u32);
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        // A call of another architecture, such as i386's on x86_64, kills the process.
        programs.push(SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()?);
    }
    Ok(programs)
}

impl Moded {
    /// Refuses a mode with a set-id bit, or of a device.
    fn rules(&self) -> Result<Vec<SeccompRule>, BackendError> {
        let mut rules = Vec::new();
        for bit in [libc::S_ISUID, libc::S_ISGID] {
            let set = || has(self.mode, bit.into());
            match self.flags {
                None => rules.push(all([set()])?),
                Some(flags) => {
                    // O_TMPFILE has O_DIRECTORY in it, which alone makes nothing.
                    for makes in [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY] {
                        rules.push(all([has(flags, makes as u64), set()])?);
                    }
                }
            }
        }
        if self.flags.is_none() {
            for device in [libc::S_IFCHR, libc::S_IFBLK] {
                rules.push(all([masked(self.mode, libc::S_IFMT.into(), device.into())])?);
            }
        }
        Ok(rules)
    }
}

/// Refuses numbers of the x32 ABI, and says of those after [`LAST`] that there is no such call. Ranges of
/// numbers are beyond what the crate's rules can say.
fn known_numbers() -> BpfProgram {
    let load_number = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let jump_if_above = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    let ret = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let answer = |errno: i32| step(ret, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32);
    vec![
        // `seccomp_data` begins with the number.
        step(load_number, 0, 0, 0),
        step(jump_if_above, 1, 0, LAST),
        step(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(jump_if_above, 1, 0, X32 - 1),
        answer(libc::ENOSYS),
        answer(libc::EPERM),
    ]
}

type Condition = Result<SeccompCondition, BackendError>;

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Condition {
    // The kernel takes 32 bits of each of these arguments, or fewer.
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn is(argument: u8, value: u64) -> Condition {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn not(argument: u8, value: u64) -> Condition {
    condition(argument, SeccompCmpOp::Ne, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    condition(argument, SeccompCmpOp::MaskedEq(mask), value)
}

fn has(argument: u8, bit: u64) -> Condition {
    masked(argument, bit, bit)
}

/// Holds where all of `conditions` do.
fn all(conditions: impl IntoIterator<Item = Condition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}
