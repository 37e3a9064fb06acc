//! System calls that an agent gives up, so that whoever breaks out of a cell finds less to do: seccomp, a filter that the kernel asks before each call. And the files that it can't reach:
//! Landlock, in [`files`].
//!
//! A cell reaches the system through our host functions alone. A fault in these, in a compiler or in native code may let a program make calls of its own; what the kernel
//! then refuses ([`EPERM`](libc::EPERM)) is what no part of an agent ever needs ([`process`]), and on a rank's thread besides what only others do ([`rank`]). A filter can't be taken off, and what
//! a thread starts inherits it.
//!
//! It is no wall around a cell: threads share memory, so who owns one thread owns the process, and only what [`process`] refuses is out of reach. The network is not
//! restricted: an agent needs it. Where the kernel has no seccomp, an error says so and everything goes on without it.

pub mod files;

use std::io;

/// Other processes' memory and descriptors; mounts and namespaces; the kernel itself, its clock, its modules and its keys; other users; and wide interfaces with a history of faults.
const OF_NOBODY: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_mknodat,
];

/// Other programs, signals to other processes, and being called from outside. What a rank opens of files or at other agents it opens on its own thread, so that stays.
const OF_NO_RANK: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// `AUDIT_ARCH_…` of the kernel's `audit.h`: calls by another machine's numbers, as 32-bit programs make them, would pass under other names.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;
/// Numbers from here on are those of x32, which is x86-64 under yet other names.
const X32: u32 = 0x4000_0000;

/// For the whole process, if it has one thread when this is called.
///
/// # Errors
/// The kernel has no seccomp, or refuses it.
pub fn process() -> io::Result<()> {
    // The one that an agent needs of what it gives up here.
    crate::written::prepare();
    install(OF_NOBODY)
}

/// For the thread that calls it, which is about to run a rank, and for those that it starts.
///
/// # Errors
/// As with [`process`].
pub fn rank() -> io::Result<()> {
    install(OF_NO_RANK)
}

fn install(refused: &[libc::c_long]) -> io::Result<()> {
    let mut program = filter(refused);
    let program = libc::sock_fprog { len: u16::try_from(program.len()).map_err(io::Error::other)?, filter: program.as_mut_ptr() };
    // SAFETY: prctl with this number takes plain numbers; without it only root may install a filter.
    let free = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the kernel copies the program, whose length it is given, before the call returns.
    if free != 0 || unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A program for the kernel's packet filter machine, over `struct seccomp_data`: number of the call at 0, machine at 4.
fn filter(refused: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    // A condition that skips the step behind it unless it holds.
    let when = |test: u32, k| step(libc::BPF_JMP | test | libc::BPF_K, k, 0, 1);
    let answer = |k| step(libc::BPF_RET | libc::BPF_K, k, 0, 0);
    let no = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut program = vec![load(4), step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, MACHINE, 1, 0), answer(no), load(0), when(libc::BPF_JGE, X32), answer(no)];
    program.extend(refused.iter().flat_map(|call| [when(libc::BPF_JEQ, *call as u32), answer(no)]));
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call says: a number, or the system's error.
    fn ask(call: libc::c_long, argument: libc::c_long) -> Result<libc::c_long, i32> {
        // SAFETY: of the calls below, with zeros for arguments beyond the first, none reads or writes memory of ours.
        let said = unsafe { libc::syscall(call, argument, 0, 0, 0, 0, 0) };
        if said >= 0 { Ok(said) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    }

    #[test]
    fn a_fenced_thread_works_and_starts_no_program() {
        let program = || std::process::Command::new("true").status().map(|s| s.success()).map_err(|e| e.raw_os_error());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(program(), Ok(true));
                assert_ne!(ask(libc::SYS_unshare, 0), Err(libc::EPERM));
                process().unwrap();
                assert_eq!(ask(libc::SYS_unshare, 0), Err(libc::EPERM));
                assert_eq!(program(), Ok(true), "an agent starts a compiler");
                rank().unwrap();
                assert_eq!(program(), Err(Some(libc::EPERM)));
                // What it has started has the same fence.
                assert_eq!(std::thread::spawn(program).join().unwrap(), Err(Some(libc::EPERM)));
                // Files, memory, threads and connections are as before.
                let file = tempfile::tempfile().unwrap();
                file.set_len(4096).unwrap();
                drop(vec![1u8; 16 << 20]);
                assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
                let refused = std::net::TcpStream::connect("127.0.0.1:1").unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
                #[cfg(target_arch = "x86_64")]
                assert_eq!(ask(libc::c_long::from(X32) | libc::SYS_getpid, 0), Err(libc::EPERM), "by x32's number");
            });
        });
        assert_eq!(program(), Ok(true), "others are as before");
    }
}
