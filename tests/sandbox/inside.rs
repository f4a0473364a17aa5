//! System calls of a program that wants to get out, made by this test binary in the sandbox: each attempt in a
//! process of its own, so that one that succeeds or is killed tells nothing of the next.

use std::io;
use std::os::fd::AsRawFd as _;

use rustix::process::{Pid, WaitOptions};

/// Set in the sandbox alone.
pub const INSIDE: &str = "SKEP_TEST_INSIDE";

/// What an attempt came to: a value of its own, or the kernel's refusal.
pub type Answer = io::Result<i64>;

/// A raw system call.
pub fn call(number: i64, arguments: &[i64]) -> Answer {
    let argument = |n: usize| arguments.get(n).copied().unwrap_or(0);
    // SAFETY: pointers among the arguments are to memory that the caller keeps; what a call does to this process
    // is what is tested, and the process ends after it.
    let value = unsafe {
        libc::syscall(
            number,
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        )
    };
    match value {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// A string for the kernel, which stays for good.
pub fn text(text: &str) -> i64 {
    let text = std::ffi::CString::new(text).unwrap();
    text.into_raw() as i64
}

/// Memory of zeroes for the kernel to read or to write.
pub fn zeroes(bytes: usize) -> i64 {
    Box::leak(vec![0_u8; bytes].into_boxed_slice()).as_mut_ptr() as i64
}

/// The answer in words: `ok` and the value, the error's name, or the signal.
fn in_words(answer: &Answer) -> String {
    let error = match answer {
        Ok(value) => return format!("ok {value}"),
        Err(error) => error,
    };
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EBADF, "EBADF"),
        (libc::EACCES, "EACCES"),
        (libc::EXDEV, "EXDEV"),
        (libc::EINVAL, "EINVAL"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENXIO, "ENXIO"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::ENOTSUP, "ENOTSUP"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
    ];
    let number = error.raw_os_error();
    let name = names.iter().find(|(known, _)| Some(*known) == number);
    name.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}

/// Makes an attempt in a child, and gives its answer in words.
pub fn attempt(attempt: fn() -> Answer) -> String {
    let (reader, writer) = io::pipe().unwrap();
    // SAFETY: the harness runs one test at a time on the main thread, so no lock is held by another.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let words = in_words(&attempt());
        rustix::io::write(&writer, words.as_bytes()).unwrap();
        // SAFETY: ends the process, without what the harness would do at its end.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    let mut buffer = [0; 256];
    let read = rustix::io::read(&reader, &mut buffer).unwrap_or(0);
    let waited = rustix::process::waitpid(Pid::from_raw(child), WaitOptions::empty());
    let status = waited.unwrap().unwrap().1;
    match status.terminating_signal() {
        Some(signal) => format!("signal {signal}"),
        None => String::from_utf8_lossy(&buffer[..read]).into_owned(),
    }
}

/// A new file in the output directory, opened for writing.
pub fn file() -> i64 {
    let file = std::fs::File::create("/out/file").unwrap();
    let number = file.as_raw_fd();
    std::mem::forget(file);
    number.into()
}

/// Whether a file can be read: how many of its bytes.
pub fn read(path: &str) -> Answer {
    std::fs::read(path).map(|bytes| bytes.len() as i64)
}

/// Opens an existing file for writing.
pub fn write(path: &str) -> Answer {
    std::fs::OpenOptions::new().write(true).open(path).map(|_| 0)
}

/// A call of the i386 ABI, which x86_64 kernels serve too: `getpid`.
#[cfg(target_arch = "x86_64")]
pub fn i386() -> Answer {
    let mut value: i64 = 20;
    // SAFETY: the call takes no arguments and changes no memory; the kernel clears r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") value, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    Ok(value)
}
