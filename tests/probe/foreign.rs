//! Acts that call the kernel by its other doors, which a filter written for one architecture does not watch:
//! 32-bit calls by `int 0x80`, and x32 calls.

use std::ffi::OsString;

use crate::act::Doer;

#[cfg(target_arch = "x86_64")]
pub const ACTS: &[(&str, Doer)] = &[
    ("int80-getpid", x86::int80_getpid),
    ("int80-open", x86::int80_open),
    ("x32-getpid", x86::x32_getpid),
    ("x32-open", x86::x32_open),
];

#[cfg(not(target_arch = "x86_64"))]
pub const ACTS: &[(&str, Doer)] = &[];

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    use nix::errno::Errno;

    use super::OsString;
    use crate::act::{Act, Refusal, Step, c_string, setup};

    /// A system call of the i386 table. The kernel cuts every argument to 32 bits.
    fn int80(number: u32, first: u32, second: u32, third: u32) -> i32 {
        let result: u64;
        // SAFETY: rbx belongs to the compiler, so it is exchanged and put back. Pointers passed are below 4 GiB (the
        // callers see to that). r8 to r11 are not kept by every kernel's 32-bit entry.
        unsafe {
            asm!(
                "xchg rbx, {first}",
                "int 0x80",
                "xchg rbx, {first}",
                first = inout(reg) u64::from(first) => _,
                inlateout("rax") u64::from(number) => result,
                in("rcx") u64::from(second),
                in("rdx") u64::from(third),
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        // The low half holds the answer.
        (result as u32).cast_signed()
    }

    /// A system call of the x32 table: the 64-bit numbers with bit 30 set, for most calls.
    fn x32(number: u64, first: u64, second: u64) -> i64 {
        let result: u64;
        // SAFETY: the plain system call instruction; it changes rax, rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") 0x4000_0000 | number => result,
                in("rdi") first,
                in("rsi") second,
                in("rdx") 0_u64,
                out("rcx") _, out("r11") _,
            );
        }
        result.cast_signed()
    }

    fn answer(result: i64) -> Result<i64, Refusal> {
        if (-4095..0).contains(&result) {
            Err(Errno::from_raw(i32::try_from(-result).expect("below 4096")).into())
        } else {
            Ok(result)
        }
    }

    pub fn int80_getpid(_: &[OsString]) -> Act {
        let pid = answer(int80(20, 0, 0, 0).into()).step("int 0x80")?;
        Ok(pid.to_string())
    }

    pub fn int80_open(args: &[OsString]) -> Act {
        let path = c_string(args, 0)?;
        let bytes = path.as_bytes_with_nul();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: a fresh page below 4 GiB, where a 32-bit pointer can reach it; the path fits (checked).
        let low = unsafe {
            let page = libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if page == libc::MAP_FAILED || bytes.len() > 4096 {
                return setup("no memory below 4 GiB");
            }
            page.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            page
        };
        let address = u32::try_from(low.addr()).or_else(|_| setup("the page is above 4 GiB"))?;
        let fd = answer(int80(5, address, 0, 0).into()).step("open by int 0x80")?;
        let buffer = address + 4096;
        let count = answer(int80(3, u32::try_from(fd).unwrap_or(0), buffer, 4096).into()).step("read by int 0x80")?;
        // SAFETY: the kernel wrote that many bytes to the second page.
        let found = unsafe {
            std::slice::from_raw_parts(low.cast::<u8>().add(4096), usize::try_from(count).expect("checked above"))
        };
        Ok(crate::act::shown(found))
    }

    pub fn x32_getpid(_: &[OsString]) -> Act {
        let pid = answer(x32(libc::SYS_getpid.cast_unsigned(), 0, 0)).step("x32 getpid")?;
        Ok(pid.to_string())
    }

    pub fn x32_open(args: &[OsString]) -> Act {
        let path = c_string(args, 0)?;
        let address = path.as_ptr().expose_provenance() as u64;
        let fd = answer(x32(libc::SYS_open.cast_unsigned(), address, 0)).step("x32 open")?;
        let mut bytes = [0_u8; 256];
        // SAFETY: the kernel writes at most that many bytes to the buffer.
        let count = unsafe { libc::read(i32::try_from(fd).expect("small"), bytes.as_mut_ptr().cast(), bytes.len()) };
        Ok(crate::act::shown(&bytes[..usize::try_from(count).unwrap_or(0)]))
    }
}
