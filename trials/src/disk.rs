//! A disk that is soon full: a file system of its own, where this process may mount one.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system of a few megabytes. It is unmounted and gone when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// An ext4 of `mebibytes` in a file, through a loop device: a real file system with a real limit.
    /// `None` where this process may not mount, or the tools are missing.
    #[must_use]
    pub fn ext4(mebibytes: u64) -> Option<Self> {
        let disk = Self::folder()?;
        let image = disk.folder.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).ok()?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        disk.mount(Command::new("mount").args(["-o", "loop"]).arg(&image))
    }

    /// A file system of `mebibytes` in memory. `None` where this process may not mount.
    #[must_use]
    pub fn memory(mebibytes: u64) -> Option<Self> {
        let size = format!("size={mebibytes}m");
        Self::folder()?.mount(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]))
    }

    /// Where files are put on it; empty at first but for what the file system itself keeps there.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        mounted(self.folder.path())
    }

    fn folder() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        std::fs::create_dir(mounted(folder.path())).ok()?;
        Some(Self { folder })
    }

    fn mount(self, command: &mut Command) -> Option<Self> {
        run(command.arg(self.path())).map(|()| self)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // One that was never mounted is only a folder.
        let _ = run(Command::new("umount").arg(self.path()));
    }
}

fn mounted(folder: &Path) -> PathBuf {
    folder.join("mounted")
}

fn run(command: &mut Command) -> Option<()> {
    command.output().is_ok_and(|output| output.status.success()).then_some(())
}
