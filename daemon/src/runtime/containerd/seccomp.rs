//! The system calls that a function may make.
//!
//! Owns the profile: what is listed is allowed, all else is refused. containerd brings no profile of its own to
//! its clients. Names that a kernel or a machine does not have are skipped by runc, so one list serves all.
//!
//! Most refused calls answer `EPERM`. Those that programs try first and can do without answer `ENOSYS`, so that
//! they take their other way.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::host::Machine;

/// `EPERM`, the answer to what is not allowed.
const EPERM: u32 = 1;

/// `ENOSYS`, the answer to what is "not there".
const ENOSYS: u32 = 38;

/// Every `CLONE_NEW…` flag: a function makes no namespaces.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// The families of sockets: unix, IPv4, IPv6, netlink (libc lists addresses with it). Not `AF_ALG`, `AF_VSOCK`,
/// `AF_PACKET` and the many rare ones, whose code is where the holes of the last years were.
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// What `personality` may be given: nothing special, a 32-bit `uname`, and the question for the present one.
const PERSONALITIES: [u64; 3] = [0x0, 0x8, 0xFFFF_FFFF];

/// Allowed with any arguments, by what they are for.
const ALLOWED: [&str; 13] = [
    FILES,
    FILE_TREES,
    MEMORY,
    PROCESSES,
    IDENTITY,
    SIGNALS,
    TIME,
    EVENTS,
    SOCKETS,
    IPC,
    SCHEDULING,
    LIMITS_AND_FACTS,
    ARM,
];

/// Open, read, write, and what is known of a descriptor. Native asynchronous I/O too: nginx and databases use it.
const FILES: &str = "
    close close_range copy_file_range creat dup dup2 dup3 fadvise64 fallocate fcntl fdatasync flock
    fstat fstatfs fsync ftruncate ioctl lseek memfd_create open openat openat2 pipe pipe2 pread64 preadv
    preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile splice sync sync_file_range syncfs
    tee truncate vmsplice write writev io_cancel io_destroy io_getevents io_pgetevents io_setup
    io_submit
";

/// Names, modes, owners and attributes in the file tree; a process may also lock itself further in (Landlock).
const FILE_TREES: &str = "
    access chdir chmod chown faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown fchownat
    fgetxattr flistxattr fremovexattr fsetxattr futimesat getcwd getdents getdents64 getxattr getxattrat
    lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lsetxattr lstat mkdir
    mkdirat mknod mknodat name_to_handle_at newfstatat readlink readlinkat removexattr removexattrat
    rename renameat renameat2 rmdir setxattr setxattrat stat statfs statmount listmount statx symlink
    symlinkat umask unlink unlinkat utime utimensat utimes landlock_add_rule landlock_create_ruleset
    landlock_restrict_self
";

/// Address space.
const MEMORY: &str = "
    brk cachestat get_mempolicy madvise map_shadow_stack membarrier memfd_secret mincore mlock mlock2
    mlockall mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
    pkey_mprotect process_madvise process_mrelease remap_file_pages
";

/// Processes and threads. `clone` is below, with its condition.
const PROCESSES: &str = "
    arch_prctl execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv
    futex_wake get_robust_list get_thread_area gettid pidfd_open prctl restart_syscall rseq seccomp
    set_robust_list set_thread_area set_tid_address vfork wait4 waitid waitpid
";

/// Users, groups, sessions, capabilities.
const IDENTITY: &str = "
    capget capset getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getresgid getresuid
    getsid getuid setfsgid setfsuid setgid setgroups setpgid setregid setresgid setresuid setreuid
    setsid setuid
";

/// Signals.
const SIGNALS: &str = "
    kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigreturn tgkill
    tkill
";

/// Clocks and timers: read, not set.
const TIME: &str = "
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times
";

/// Waiting for several things.
const EVENTS: &str = "
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll
    ppoll pselect6 select
";

/// Sockets. `socket` is below, with its condition.
const SOCKETS: &str = "
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg
    sendmmsg sendmsg sendto setsockopt shutdown socketpair
";

/// System V and POSIX message queues, semaphores, shared memory: of its own IPC namespace.
const IPC: &str = "
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
    semctl semget semop semtimedop shmat shmctl shmdt shmget
";

/// Priorities and processors; the kernel lets nobody raise himself.
const SCHEDULING: &str = "
    getcpu getpriority ioprio_get ioprio_set sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield setpriority
";

/// Limits, and what the kernel tells of itself. The last ones are called by newer C libraries on start, and by
/// probes that the host itself puts into programs.
const LIMITS_AND_FACTS: &str = "
    getrandom getrlimit getrusage lsm_get_self_attr lsm_list_modules prlimit64 setrlimit sysinfo uname
    riscv_hwprobe uretprobe
";

/// What 32-bit programs on ARM call instead: many images for the Raspberry Pi are 32-bit.
const ARM: &str = "
    _llseek _newselect arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush chown32
    clock_getres_time64 clock_gettime64 clock_nanosleep_time64 fchown32 fcntl64 fstat64 fstatat64
    fstatfs64 ftruncate64 futex_time64 getegid32 geteuid32 getgid32 getgroups32 getresgid32 getresuid32
    getuid32 io_pgetevents_time64 lchown32 lstat64 mmap2 mq_timedreceive_time64 mq_timedsend_time64
    ppoll_time64 pselect6_time64 recv recvmmsg_time64 rt_sigtimedwait_time64
    sched_rr_get_interval_time64 semtimedop_time64 send sendfile64 set_tls setfsgid32 setfsuid32
    setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 sigaction sigpending
    sigprocmask sigsuspend stat64 statfs64 sync_file_range2 timer_gettime64 timer_settime64
    timerfd_gettime64 timerfd_settime64 truncate64 ugetrlimit utimensat_time64
";

/// Tried first by programs that have another way. `clone3` hides its flags behind a pointer where no filter can
/// look, so the C libraries must fall back to `clone`; event loops fall back from `io_uring` to `epoll`.
const ABSENT: &str = "clone3 io_uring_enter io_uring_register io_uring_setup";

/// The profile for `machine`.
pub(super) fn profile(machine: Machine) -> Result<LinuxSeccomp, OciSpecError> {
    let allow = LinuxSeccompAction::ScmpActAllow;
    let mut rules = Vec::new();
    for names in ALLOWED {
        rules.push(rule(names, allow).build()?);
    }
    let no_namespaces = argument(0, NAMESPACE_FLAGS, LinuxSeccompOperator::ScmpCmpMaskedEq, Some(0))?;
    rules.push(rule("clone", allow).args(vec![no_namespaces]).build()?);
    rules.extend(when_first_argument_is("socket", &SOCKET_FAMILIES)?);
    rules.extend(when_first_argument_is("personality", &PERSONALITIES)?);
    rules.push(rule(ABSENT, LinuxSeccompAction::ScmpActErrno).errno_ret(ENOSYS).build()?);

    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(architectures(machine))
        .syscalls(rules)
        .build()
}

/// Programs for another one than these are killed at their first call.
fn architectures(machine: Machine) -> Vec<Arch> {
    match machine {
        Machine::X86_64 => vec![Arch::ScmpArchX86_64],
        Machine::Aarch64 => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        // None named: the native one.
        Machine::Other => Vec::new(),
    }
}

fn rule(names: &str, action: LinuxSeccompAction) -> LinuxSyscallBuilder {
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    LinuxSyscallBuilder::default().names(names).action(action)
}

/// One rule for each value: the conditions of a single rule must all hold at once.
fn when_first_argument_is(name: &str, values: &[u64]) -> Result<Vec<LinuxSyscall>, OciSpecError> {
    let allow = LinuxSeccompAction::ScmpActAllow;
    values
        .iter()
        .map(|value| {
            let equal = argument(0, *value, LinuxSeccompOperator::ScmpCmpEq, None)?;
            rule(name, allow).args(vec![equal]).build()
        })
        .collect()
}

fn argument(
    index: usize,
    value: u64,
    op: LinuxSeccompOperator,
    value_two: Option<u64>,
) -> Result<LinuxSeccompArg, OciSpecError> {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    match value_two {
        Some(value_two) => builder.value_two(value_two).build(),
        None => builder.build(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn names_allowed_outright() -> HashSet<&'static str> {
        ALLOWED.iter().flat_map(|group| group.split_whitespace()).collect()
    }

    #[test]
    fn no_call_is_listed_twice() {
        let listed: usize = ALLOWED.iter().map(|group| group.split_whitespace().count()).sum();
        assert_eq!(listed, names_allowed_outright().len());
    }

    #[test]
    fn what_reaches_out_of_the_container_is_not_allowed() {
        let allowed = names_allowed_outright();
        let refused = "
            mount umount2 pivot_root unshare setns clone clone3 bpf ptrace keyctl add_key request_key
            perf_event_open userfaultfd init_module finit_module delete_module kexec_load reboot swapon
            open_by_handle_at settimeofday clock_settime chroot syslog acct quotactl fsopen move_mount
            open_tree process_vm_writev io_uring_setup socket personality iopl ioperm sethostname
        ";
        for name in refused.split_whitespace() {
            assert!(!allowed.contains(name), "{name}");
        }
    }

    #[test]
    fn unknown_calls_are_refused_and_new_ones_said_to_be_absent() {
        let profile = serde_json::to_value(profile(Machine::X86_64).unwrap()).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(profile["defaultErrnoRet"], 1);
        assert_eq!(profile["architectures"], serde_json::json!(["SCMP_ARCH_X86_64"]));
        let rules = profile["syscalls"].as_array().unwrap();
        let of = |name: &str| -> Vec<_> {
            rules.iter().filter(|rule| rule["names"].as_array().unwrap().contains(&name.into())).collect()
        };
        assert_eq!(of("clone3")[0]["errnoRet"], 38);
        assert_eq!(of("clone")[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(of("clone")[0]["args"][0]["valueTwo"], 0);
        assert_eq!(of("socket").len(), SOCKET_FAMILIES.len());
    }
}
