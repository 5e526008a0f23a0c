//! Runs a loop compiled for the widest vector instructions that this machine has.
//!
//! Invariants: what runs is the same code, compiled several times, and integer results do not depend on which; an instruction
//! runs only where the processor and the kernel were found to have it. This crate exists so that the one step that the compiler
//! cannot check stands apart from whoever uses it. Deliberately absent: intrinsics, because loops over arrays are turned into
//! them by the compiler.

#![warn(missing_docs)]

/// A computation whose loops gain from wide instructions.
pub trait Work {
    /// What it yields.
    type Output;

    /// Does it. Mark it `#[inline(always)]`, and all that it calls: only what is compiled into its caller is compiled for the
    /// caller's instructions.
    fn run(self) -> Self::Output;
}

/// Does the work with the widest instructions that there are.
#[inline]
pub fn widest<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the processor has these instructions, and the kernel keeps their registers, or they were not detected.
            return unsafe { avx512(work) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2(work) };
        }
    }
    // Other processors: what every one of their kind has, which on aarch64 is enough.
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Product<'a>(&'a [i8], &'a [i8]);

    impl Work for Product<'_> {
        type Output = i32;

        #[inline(always)]
        fn run(self) -> i32 {
            let pairs = self.0.iter().zip(self.1);
            pairs.map(|(&one, &other)| i32::from(one) * i32::from(other)).sum()
        }
    }

    #[test]
    fn wide_instructions_yield_what_narrow_ones_do() {
        let one: Vec<i8> = (0..1_000).map(|at| (at * 37 % 255 - 127) as i8).collect();
        let other: Vec<i8> = (0..1_000).map(|at| (at * 91 % 255 - 127) as i8).collect();
        for len in 0..one.len() {
            let work = || Product(&one[..len], &other[..len]);
            assert_eq!(widest(work()), work().run(), "{len}");
        }
    }
}
