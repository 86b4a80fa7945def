//! What a process holds, as Linux tells it: memory, file descriptors, threads, time of the processor.

use std::time::Duration;

/// A process that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    id: u32,
}

/// Ticks of `/proc/<id>/stat` in a second, the same on every Linux.
const TICKS: u64 = 100;

impl Process {
    /// The process of this number.
    #[must_use]
    pub fn of(id: u32) -> Self {
        Self { id }
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        Self::of(std::process::id())
    }

    /// Bytes of memory in use now.
    #[must_use]
    #[track_caller]
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// Most bytes of memory that were ever in use at once.
    #[must_use]
    #[track_caller]
    pub fn memory_peak(&self) -> u64 {
        self.status("VmHWM:") * 1024
    }

    /// Its threads.
    #[must_use]
    #[track_caller]
    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// Its open file descriptors; of this process itself without the one that counts them.
    #[must_use]
    #[track_caller]
    pub fn descriptors(&self) -> u64 {
        let path = format!("/proc/{}/fd", self.id);
        let open = std::fs::read_dir(&path).map(Iterator::count);
        let own = usize::from(self.id == std::process::id());
        match open {
            Ok(count) => count.saturating_sub(own) as u64,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Time that processors spent on it, to 10 ms.
    #[must_use]
    #[track_caller]
    pub fn processor_time(&self) -> Duration {
        let stat = self.read("stat");
        // The name of the program stands in parentheses and may hold anything.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    #[track_caller]
    fn status(&self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        match number {
            Some(number) => number,
            None => panic!("process {} has no {name}", self.id),
        }
    }

    #[track_caller]
    fn read(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.id);
        match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => panic!("{path}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_takes_is_seen() {
        let own = Process::own();
        let (memory, descriptors, threads) = (own.memory(), own.descriptors(), own.threads());
        let taken = vec![1_u8; 64 << 20];
        let files: Vec<_> = (0..40).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(11));
        for _ in 0..10 {
            let barrier = std::sync::Arc::clone(&barrier);
            std::thread::spawn(move || barrier.wait());
        }
        assert!(own.memory() >= memory + (48 << 20), "{} {memory}", taken.len());
        assert!(own.memory_peak() >= memory + (48 << 20));
        assert!(own.descriptors() >= descriptors + 30, "{} {descriptors}", files.len());
        assert!(own.threads() >= threads + 5);
        barrier.wait();
    }

    #[test]
    fn work_takes_time_of_the_processor() {
        let began = Process::own().processor_time();
        let mut sum = 0_u64;
        while Process::own().processor_time() < began + Duration::from_millis(20) {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert_ne!(sum, 0);
    }
}
