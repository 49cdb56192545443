//! The second wall, around a worker: what its process can still do once it is ready. The first one is WebAssembly.
//!
//! A program that finds a hole in wasmtime is in a process without files, network, other processes, environment or
//! privileges to gain, and the only thing to write to is the socket on which the gateway believes nothing.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::{fs, io};

/// What comes before the wall, while there is one thread: what the others have, they have from it.
pub(super) fn prepare() -> io::Result<()> {
    // Where memory runs out, a worker is to go and not its gateway. Some systems have no such file.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    // Root's would be all of them.
    let (effective, permitted, inheritable) = (CapabilitySet::empty(), CapabilitySet::empty(), CapabilitySet::empty());
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?)
}

/// Shuts everything that a worker at work does not need. For ever, and for all threads that there are; Landlock for
/// this one, which runs the programs.
pub(super) fn apply() -> Result<(), Box<dyn Error + Send + Sync>> {
    // Not a signal at the parent's death: Linux means the death of the thread that has started this process. A worker sees
    // its gateway go by its socket, at the next tick.
    // No core file with somebody's data, and nobody of the same user looks in.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // A kernel may lack it, a container forbid it. The filter below lets nothing be opened either.
    let _ = landlock();
    // No core file, bytes of files, processes, locked pages, and no further descriptor: 0 is taken, and less than 1 would
    // forbid to wait for one.
    let most = [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nproc, 0),
        (Resource::Memlock, 0),
        (Resource::Nofile, 1),
    ];
    for (what, most) in most {
        rustix::process::setrlimit(what, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    // The stricter of two filters wins.
    seccompiler::apply_filter_all_threads(&refusals()?)?;
    seccompiler::apply_filter_all_threads(&filter()?)?;
    Ok(())
}

/// Denies new privileges, all files, ports and signals to others, as far as the kernel knows how.
fn landlock() -> Result<(), Box<dyn Error>> {
    let abi = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(())
}

/// Calls that get an error and do not end the process: glibc's allocator looks at a setting of the kernel's before it
/// gives memory back, and does without.
fn refusals() -> Result<seccompiler::BpfProgram, Box<dyn Error + Send + Sync>> {
    let rules = BTreeMap::from([(libc::SYS_openat, Vec::new())]);
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch()?)?.try_into()?)
}

fn arch() -> Result<TargetArch, seccompiler::BackendError> {
    std::env::consts::ARCH.try_into()
}

/// Any other call ends the process.
fn filter() -> Result<seccompiler::BpfProgram, Box<dyn Error + Send + Sync>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always().iter().map(|call| (*call, Vec::new())).collect();
    // Memory is mapped and its protection changed, but none becomes code.
    let no_code = |argument| -> Result<_, Box<dyn Error + Send + Sync>> {
        let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, executable, 0)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    rules.insert(libc::SYS_mmap, no_code(2)?);
    rules.insert(libc::SYS_mprotect, no_code(2)?);
    let is = |argument, value: u64| -> Result<_, Box<dyn Error + Send + Sync>> {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    // Whether a descriptor is open, which Rust asks before it closes one in debug builds.
    rules.insert(libc::SYS_fcntl, vec![is(1, libc::F_GETFD as u64)?]);
    // The end of a panic, and of nobody else: the gateway is the same user's.
    rules.insert(libc::SYS_tgkill, vec![is(0, u64::from(std::process::id()))?]);
    Ok(SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch()?)?.try_into()?)
}

/// Calls that are allowed with whatever arguments.
fn always() -> &'static [i64] {
    &[
        // The socket to the gateway. No other descriptor leads anywhere.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_close,
        // Refused by the other filter.
        libc::SYS_openat,
        // A program sleeps until its time is over or the gateway gone.
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        // Which pages of an ended interpreter have to be put back: /proc/self/pagemap, which is open.
        libc::SYS_pread64,
        // The thread that ticks for time limits sleeps, and is woken.
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_restart_syscall,
        // Clocks, where the kernel gives them no page of their own.
        libc::SYS_clock_gettime,
        libc::SYS_gettimeofday,
        // The hash maps' seeds of a new thread.
        libc::SYS_getrandom,
        // Memory: of the interpreters, and the allocator's.
        libc::SYS_munmap,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_brk,
        // How many page faults there were.
        libc::SYS_getrusage,
        // wasmtime turns faults of a program into traps.
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        // The end, also a panic's.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getpid,
        libc::SYS_gettid,
    ]
}

#[cfg(test)]
mod tests;
