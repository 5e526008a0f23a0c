//! Steering connections to cores: one program and one set of maps for each listening address.
//!
//! Invariants: the list of cores is written to the half that does not hold, then one word makes it hold; only cores that
//! answered their last ticks and do not drain are on it, unless there would be none; whatever fails, the kernel chooses by
//! hash. Deliberately absent: system calls after the start, except to add and remove sockets.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use aya::maps::{MapData, ReusePortSockArray};
use aya::programs::SkReuseport;
use aya::{Ebpf, EbpfLoader};
use sluice_ebpf_common::steering::{CORES_MAX, CoreLoad, Mode, PROCESSORS_MAX, SteerConfig, word};

use super::mapped::Mapped;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../ebpf/objects/steering.o");

/// The program with a migrate path, and the one for kernels before 5.14.
const PROGRAMS: [&str; 2] = ["steer_migrate", "steer_plain"];

/// The programs of all addresses.
pub struct Steering {
    addresses: Vec<Address>,
    cores: usize,
    mode: Mode,
    listed: Vec<u32>,
    half: u32,
}

/// One address's program and maps.
struct Address {
    ebpf: Ebpf,
    program: &'static str,
    sockets: ReusePortSockArray<MapData>,
    config: Mapped,
    active: Mapped,
    load: Arc<Mapped>,
    on_processor: Mapped,
}

/// Where one core counts the connections of one address.
#[derive(Clone)]
pub struct Load {
    words: Arc<Mapped>,
    core: usize,
}

/// A connection that counts as its core's load for as long as this lives.
pub struct Seat(Rc<Load>);

impl Steering {
    /// Loads a program for each of `addresses` addresses.
    ///
    /// # Errors
    /// When the kernel refuses, or there are more cores than the maps have room for.
    pub fn load(addresses: usize, cores: usize, mode: Mode) -> Result<Self> {
        if cores > CORES_MAX as usize {
            bail!("there are more than {CORES_MAX} cores");
        }
        Ok(Self {
            addresses: (0..addresses).map(|_| Address::load()).collect::<Result<_>>()?,
            cores,
            mode,
            listed: Vec::new(),
            half: 0,
        })
    }

    /// Puts the sockets of every core into the maps and has the programs choose among them: `sockets[core][address]`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, sockets: &[Vec<TcpListener>]) -> Result<()> {
        let all: Vec<u32> = (0..self.cores as u32).collect();
        self.list(&all);
        for (index, address) in self.addresses.iter_mut().enumerate() {
            let own = |core: &Vec<TcpListener>| core.get(index).map(AsRawFd::as_raw_fd);
            for (core, socket) in sockets
                .iter()
                .enumerate()
                .filter_map(|(core, all)| Some((core, own(all)?)))
            {
                let set = address.sockets.set(core as u32, &socket, 0);
                set.context("cannot add a listening socket")?;
            }
            if let Some(socket) = sockets.iter().find_map(|core| core.get(index)) {
                address.program()?.attach(socket).context("cannot attach the program")?;
            }
        }
        Ok(())
    }

    /// Takes the sockets out of the maps, so that another process can put them into its own; the kernel chooses by hash until
    /// it has.
    pub fn release(&mut self) {
        for address in &mut self.addresses {
            for core in 0..self.cores as u32 {
                let _ = address.sockets.clear_index(&core);
            }
        }
    }

    /// Where the core counts the connections of an address.
    pub fn load_of(&self, core: usize, address: usize) -> Load {
        Load {
            words: self.addresses[address].load.clone(),
            core,
        }
    }

    /// How a core is chosen now.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The cores that get connections now.
    pub fn listed(&self) -> &[u32] {
        &self.listed
    }

    /// Chooses in another way from now on.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        let listed = std::mem::take(&mut self.listed);
        self.list(&listed);
    }

    /// Only these cores get connections from now on; all of them if there is none. False if that was so already.
    pub fn set_usable(&mut self, usable: &[u32]) -> bool {
        let all: Vec<u32>;
        let usable = if usable.is_empty() {
            all = (0..self.cores as u32).collect();
            &all
        } else {
            usable
        };
        let changed = usable != self.listed.as_slice();
        if changed {
            self.list(usable);
        }
        changed
    }

    /// The processor that each core stays on, for mode [`Mode::Cpu`].
    pub fn set_processors(&mut self, processors: &[usize], usable: &[u32]) {
        for address in &self.addresses {
            for (core, &processor) in processors.iter().enumerate() {
                if processor < PROCESSORS_MAX as usize {
                    let known = usable.is_empty() || usable.contains(&(core as u32));
                    let value = if known { core as u64 + 1 } else { 0 };
                    address.on_processor.word(processor).store(value, Ordering::Relaxed);
                }
            }
        }
    }

    /// Sets right what connections that were picked and never accepted have added: `sockets` as in [`Steering::attach`].
    pub fn rebase(&self, sockets: &[Vec<TcpListener>]) {
        for (index, address) in self.addresses.iter().enumerate() {
            for (core, own) in sockets.iter().enumerate() {
                let Some(Ok(queued)) = own.get(index).map(queue_length) else {
                    continue;
                };
                let load = Load {
                    words: address.load.clone(),
                    core,
                };
                let arrived = load.word(ACCEPTED).load(Ordering::Relaxed) + u64::from(queued);
                let drift = load.word(PICKED).load(Ordering::Relaxed).wrapping_sub(arrived);
                load.word(DRIFT).store(drift, Ordering::Relaxed);
            }
        }
    }

    /// Connections whose chosen socket could not take them: the kernel chose another one by hash.
    pub fn unplaced(&self) -> u64 {
        let counts = self.addresses.iter().map(|address| address.config.word(UNPLACED));
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Connections sent to each core.
    pub fn picked(&self) -> Vec<u64> {
        let of_core = |core| {
            let loads = self.addresses.iter().map(|address| Load {
                words: address.load.clone(),
                core,
            });
            loads.map(|load| load.word(PICKED).load(Ordering::Relaxed)).sum()
        };
        (0..self.cores).map(of_core).collect()
    }

    fn list(&mut self, cores: &[u32]) {
        self.half = 1 - self.half;
        let word = word(self.mode, self.half, cores.len() as u32);
        for address in &self.addresses {
            let base = (self.half * CORES_MAX) as usize;
            for (place, &core) in cores.iter().enumerate() {
                address
                    .active
                    .word(base + place)
                    .store(u64::from(core), Ordering::Relaxed);
            }
            address.config.word(WORD).store(word, Ordering::Release);
        }
        self.listed = cores.to_vec();
    }
}

/// Words of [`SteerConfig`] and [`CoreLoad`].
const WORD: usize = 0;
const UNPLACED: usize = 2;
const PICKED: usize = 0;
const ACCEPTED: usize = 1;
const CLOSED: usize = 2;
const DRIFT: usize = 3;
const LOAD_WORDS: usize = size_of::<CoreLoad>() / 8;

const _: () = assert!(std::mem::offset_of!(SteerConfig, word) == 8 * WORD);
const _: () = assert!(std::mem::offset_of!(SteerConfig, unplaced) == 8 * UNPLACED);
const _: () = assert!(std::mem::offset_of!(CoreLoad, picked) == 8 * PICKED);
const _: () = assert!(std::mem::offset_of!(CoreLoad, accepted) == 8 * ACCEPTED);
const _: () = assert!(std::mem::offset_of!(CoreLoad, closed) == 8 * CLOSED);
const _: () = assert!(std::mem::offset_of!(CoreLoad, drift) == 8 * DRIFT);

impl Address {
    fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("cannot make the maps")?;
        let program = load_one(&mut ebpf)?;
        let area = |ebpf: &mut Ebpf, name: &str, words: usize| -> Result<Mapped> {
            let map = ebpf.take_map(name).with_context(|| format!("there is no map {name}"))?;
            let aya::maps::Map::Array(data) = map else {
                bail!("the map {name} is no array")
            };
            Ok(Mapped::new(data.fd().as_fd(), words)?)
        };
        Ok(Self {
            program,
            config: area(&mut ebpf, "CONFIG", size_of::<SteerConfig>() / 8)?,
            active: area(&mut ebpf, "ACTIVE", 2 * CORES_MAX as usize)?,
            load: Arc::new(area(&mut ebpf, "LOAD", CORES_MAX as usize * LOAD_WORDS)?),
            on_processor: area(&mut ebpf, "ON_PROCESSOR", PROCESSORS_MAX as usize)?,
            sockets: ebpf
                .take_map("SOCKETS")
                .context("there is no map SOCKETS")?
                .try_into()?,
            ebpf,
        })
    }

    fn program(&mut self) -> Result<&mut SkReuseport> {
        let program = self.ebpf.program_mut(self.program).context("the program is gone")?;
        Ok(program.try_into()?)
    }
}

/// Loads the first program that the kernel takes.
fn load_one(ebpf: &mut Ebpf) -> Result<&'static str> {
    let mut last = None;
    for name in PROGRAMS {
        let program: &mut SkReuseport = ebpf.program_mut(name).context("there is no program")?.try_into()?;
        match program.load() {
            Ok(()) => return Ok(name),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(super::short(error)),
        None => bail!("there is no program"),
    }
}

impl Load {
    fn word(&self, word: usize) -> &AtomicU64 {
        self.words.word(self.core * LOAD_WORDS + word)
    }

    /// Adds one to a word that only this core writes.
    fn add(&self, word: usize) {
        let word = self.word(word);
        word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The core has accepted a connection.
    pub fn seat(self: &Rc<Self>) -> Seat {
        self.add(ACCEPTED);
        Seat(self.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.add(CLOSED);
    }
}

/// Connections that wait to be accepted: a listening socket says so where others say what is not acknowledged (tcp(7)).
fn queue_length(listener: &TcpListener) -> io::Result<u32> {
    // SAFETY: a structure of plain integers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the structure has room for as many bytes as the kernel is told.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    if result == 0 {
        Ok(info.tcpi_unacked)
    } else {
        Err(io::Error::last_os_error())
    }
}
