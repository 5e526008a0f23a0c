//! Accounting: the programs that measure connections, the tags that say which connection is whose, and the histograms.
//!
//! Invariants: loaded whole or not at all; a connection to a provider is tagged by its descriptor before it connects, so it is
//! known by the provider's name, not by an address that others share; reading touches neither a core nor a program; the programs
//! at the tracepoints, which run for every send and receive of the machine, are there only for as long as [`Duty`] says.
//! Deliberately absent: names in the maps' keys; [`Accounting::slots`] says what a slot is.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, CgroupAttachMode, SockOps};
use aya::{Btf, Ebpf, EbpfLoader};
use sluice_ebpf_common::ABI;
use sluice_ebpf_common::accounting::{
    BUCKETS, Counts, Histogram, LISTENER_SLOTS, ListenerKey, NAME_BYTES, ROLE_UPSTREAM, SlotName, Tag, is_open,
};
use sluice_policy::meter::catalog::{self as of, Family};

use super::duty::{Duty, Seen};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../ebpf/objects/accounting.o");

/// The histograms: the map, the metric, and whether its values are microseconds.
pub const HISTOGRAMS: [(&str, Family, bool); 10] = [
    ("CONNECT", of::KERNEL_CONNECT, true),
    ("HANDSHAKE_RTT", of::KERNEL_HANDSHAKE, true),
    ("SRTT", of::KERNEL_SRTT, true),
    ("RETRANSMITS", of::KERNEL_RETRANSMITS, false),
    ("BYTES_SENT", of::KERNEL_SENT, false),
    ("BYTES_RECEIVED", of::KERNEL_RECEIVED, false),
    ("ACCEPT_QUEUE", of::KERNEL_ACCEPT, true),
    ("READY_WAIT", of::KERNEL_READY, true),
    ("FIRST_BYTE", of::KERNEL_FIRST, true),
    ("LAST_BYTE", of::KERNEL_LAST, true),
];

/// The programs that see exchanges, and the tracepoint of each.
const TRACED: [(&str, &str); 3] = [
    ("sent", "sock_send_length"),
    ("received", "sock_recv_length"),
    ("ready", "sk_data_ready"),
];
/// Slots for providers that are made at least, so that a reload may bring some.
const UPSTREAM_SLOTS_MIN: u32 = 16;
/// `AF_INET` and `AF_INET6`, as the kernel's hook says them.
const FAMILIES: (u32, u32) = (libc::AF_INET as u32, libc::AF_INET6 as u32);

/// The programs at work.
pub struct Accounting {
    /// Detached when dropped.
    ebpf: Ebpf,
    /// The programs of [`TRACED`] that are attached.
    traced: Vec<(&'static str, BtfTracePointLinkId)>,
    window: Array<MapData, u32>,
    counts: PerCpuArray<MapData, Counts>,
    pace: Pace,
    histograms: Vec<PerCpuArray<MapData, Histogram>>,
    listeners: HashMap<MapData, ListenerKey, u32>,
    /// What `listeners` holds while the port is ours.
    own: Vec<(ListenerKey, u32)>,
    names: Array<MapData, SlotName>,
    tags: Arc<OwnedFd>,
    slots: Vec<Slot>,
    of_upstream: BTreeMap<String, u32>,
    upstream_slots: u32,
    pins: Option<PathBuf>,
}

/// Where the windows stand.
struct Pace {
    /// Whether there are pauses.
    pauses: bool,
    duty: Duty,
    /// The window's number, as the programs know it.
    window: u32,
    /// When it began, and when it ends; 0 before the first look.
    began_ms: u64,
    ends_ms: u64,
    /// Of each processor, when it began.
    counts: Vec<Counts>,
    /// The gateway's processor time then, in microseconds.
    cpu_us: u64,
}

/// What a slot stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number.
    pub index: u32,
    /// `listener` or `upstream`.
    pub role: &'static str,
    /// The address, or the provider's name.
    pub name: String,
}

/// All processors' histogram of one slot.
pub type Sum = Box<Histogram>;

/// Tags connections to providers.
#[derive(Clone)]
pub struct Tagger {
    tags: Arc<OwnedFd>,
    slot: u32,
}

impl Accounting {
    /// Loads and attaches the programs, and pins the histograms below `pin_path`, if that can be.
    ///
    /// # Errors
    /// When the kernel refuses anything but the pinning, which is only logged.
    pub fn load(addresses: &[SocketAddr], upstreams: usize, pin_path: &str, pauses: bool) -> Result<Self> {
        let upstream_slots = (upstreams as u32).max(UPSTREAM_SLOTS_MIN).next_power_of_two();
        let slots = LISTENER_SLOTS + upstream_slots;
        let btf = Btf::from_sys_fs().context("the kernel has no BTF")?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("NAMES", slots);
        for (map, ..) in HISTOGRAMS {
            loader.map_max_entries(map, slots);
        }
        let mut ebpf = loader.load(OBJECT).map_err(super::short)?;
        let pins = pin(&ebpf, pin_path, addresses);
        for (name, tracepoint) in TRACED {
            let program: &mut BtfTracePoint = ebpf.program_mut(name).context("a program is missing")?.try_into()?;
            let loaded = program.load(tracepoint, &btf).map_err(super::short);
            loaded.with_context(|| format!("no use of the tracepoint {tracepoint} (Linux 6.3)"))?;
        }
        let program: &mut SockOps = ebpf
            .program_mut("connection")
            .context("a program is missing")?
            .try_into()?;
        program.load().map_err(super::short)?;
        let histograms = HISTOGRAMS.iter().map(|(map, ..)| Ok(take(&mut ebpf, map)?.try_into()?));
        let mut made = Self {
            histograms: histograms.collect::<Result<_>>()?,
            listeners: take(&mut ebpf, "LISTENERS")?.try_into()?,
            names: take(&mut ebpf, "NAMES")?.try_into()?,
            tags: Arc::new(descriptor(&take(&mut ebpf, "TAGS")?)?),
            window: take(&mut ebpf, "WINDOW")?.try_into()?,
            counts: take(&mut ebpf, "COUNTS")?.try_into()?,
            pace: Pace {
                pauses,
                duty: Duty::default(),
                window: 0,
                began_ms: 0,
                ends_ms: 0,
                counts: Vec::new(),
                cpu_us: 0,
            },
            traced: Vec::new(),
            own: Vec::new(),
            slots: Vec::new(),
            of_upstream: BTreeMap::new(),
            upstream_slots,
            pins,
            ebpf,
        };
        made.name_listeners(addresses)?;
        made.attach()?;
        Ok(made)
    }

    fn attach(&mut self) -> Result<()> {
        let group = cgroup().context("no cgroup of version 2 is mounted")?;
        let folder = fs::File::open(&group).with_context(|| format!("cannot open {}", group.display()))?;
        let program: &mut SockOps = self
            .ebpf
            .program_mut("connection")
            .context("a program is missing")?
            .try_into()?;
        // The kernel takes no other mode here; such links stand beside others anyway.
        program.attach(folder, CgroupAttachMode::Single).map_err(super::short)?;
        self.open()
    }

    /// Attaches what sees exchanges, and has it measure them.
    fn open(&mut self) -> Result<()> {
        for (name, _) in TRACED {
            if self.traced.iter().all(|(attached, _)| *attached != name) {
                let link = traced(&mut self.ebpf, name)?.attach().map_err(super::short)?;
                self.traced.push((name, link));
            }
        }
        if !is_open(self.pace.window) {
            self.next_window()?;
        }
        Ok(())
    }

    /// Detaches it. What is under way then is forgotten.
    fn shut(&mut self) -> Result<()> {
        if is_open(self.pace.window) {
            self.next_window()?;
        }
        for (name, link) in self.traced.drain(..) {
            traced(&mut self.ebpf, name)?.detach(link).map_err(super::short)?;
        }
        Ok(())
    }

    fn next_window(&mut self) -> Result<()> {
        let next = self.pace.window.wrapping_add(1);
        self.window.set(0, next, 0)?;
        self.pace.window = next;
        Ok(())
    }

    /// Begins and ends windows when it is time to.
    pub fn pace(&mut self, now_ms: u64) {
        if !self.pace.pauses || now_ms < self.pace.ends_ms {
            return;
        }
        if let Err(error) = self.turn(now_ms) {
            // Whichever of the two it is, it stays so.
            self.pace.pauses = false;
            let now = if is_open(self.pace.window) {
                "always"
            } else {
                "no longer"
            };
            tracing::warn!("exchanges are {now} measured from now on: {error:#}");
        }
    }

    fn turn(&mut self, now_ms: u64) -> Result<()> {
        let counts: Vec<Counts> = self.counts.get(&0, 0)?.iter().copied().collect();
        let cpu_us = crate::clock::cpu_us();
        let was_open = is_open(self.pace.window);
        if was_open && self.pace.ends_ms != 0 {
            let seen = Seen {
                cpu_us: cpu_us.saturating_sub(self.pace.cpu_us),
                ..seen(&self.pace.counts, &counts)
            };
            self.pace.duty = self.pace.duty.judge(seen, now_ms - self.pace.began_ms);
        }
        let pause_ms = if was_open { self.pace.duty.pause_ms() } else { 0 };
        let length_ms = if pause_ms > 0 {
            self.shut()?;
            pause_ms
        } else {
            self.open()?;
            self.pace.duty.window_ms()
        };
        self.pace.counts = counts;
        self.pace.cpu_us = cpu_us;
        self.pace.began_ms = now_ms;
        self.pace.ends_ms = now_ms + length_ms;
        Ok(())
    }

    /// The share of the time in which exchanges are measured, 0 to 1.
    pub fn share(&self) -> f64 {
        match (self.pace.pauses, is_open(self.pace.window)) {
            (true, _) => self.pace.duty.share(),
            (false, open) => f64::from(u8::from(open)),
        }
    }

    /// Whether exchanges are measured at this moment.
    pub fn is_measuring(&self) -> bool {
        is_open(self.pace.window)
    }

    fn name_listeners(&mut self, addresses: &[SocketAddr]) -> Result<()> {
        for (slot, address) in (0..LISTENER_SLOTS).zip(addresses) {
            let key = ListenerKey {
                port: u32::from(address.port()),
                family: if address.is_ipv4() { FAMILIES.0 } else { FAMILIES.1 },
            };
            // Of two addresses with one port, the first counts for both: the hook is not told which it was.
            if !self.own.iter().any(|(known, _)| *known == key) {
                self.own.push((key, slot));
                self.name(slot, "listener", address.to_string())?;
            }
        }
        Ok(())
    }

    fn name(&mut self, index: u32, role: &'static str, name: String) -> Result<()> {
        let mut bytes = [0; NAME_BYTES];
        let shown = format!("{role} {name}");
        bytes
            .iter_mut()
            .zip(shown.bytes())
            .for_each(|(place, byte)| *place = byte);
        self.names.set(index, SlotName { name: bytes }, 0)?;
        self.slots.push(Slot { index, role, name });
        Ok(())
    }

    /// What tags connections to the provider of that name; `None` if there are more names than slots.
    pub fn tagger(&mut self, upstream: &str) -> Option<Tagger> {
        let slot = match self.of_upstream.get(upstream) {
            Some(&slot) => slot,
            None => {
                let next = self.of_upstream.len() as u32;
                if next >= self.upstream_slots {
                    return None;
                }
                let slot = LISTENER_SLOTS + next;
                self.name(slot, "upstream", upstream.to_owned()).ok()?;
                self.of_upstream.insert(upstream.to_owned(), slot);
                slot
            }
        };
        Some(Tagger {
            tags: self.tags.clone(),
            slot,
        })
    }

    /// New connections of clients are measured from now on.
    ///
    /// # Errors
    /// When the kernel does not let the process say so (kernels before 5.19, without CAP_BPF).
    pub fn listen(&mut self) -> Result<()> {
        for (key, slot) in &self.own {
            self.listeners.insert(*key, *slot, 0)?;
        }
        Ok(())
    }

    /// New connections of clients are no longer measured: they belong to another process.
    pub fn release(&mut self) {
        for (key, _) in &self.own {
            let _ = self.listeners.remove(key);
        }
    }

    /// The pinned maps are another process's.
    pub fn retire(&mut self) {
        self.pins = None;
    }

    /// What has a name.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Where the histograms are pinned, if they are.
    pub fn pins(&self) -> Option<&Path> {
        self.pins.as_deref()
    }

    /// A histogram of [`HISTOGRAMS`], summed over the processors.
    ///
    /// # Errors
    /// When the kernel does not let the process read it (kernels before 5.19, without CAP_BPF).
    pub fn read(&self, histogram: usize, slot: u32) -> Result<Sum> {
        let each = self.histograms[histogram].get(&slot, 0)?;
        let mut sum = Box::new(Histogram {
            buckets: [0; BUCKETS],
            sum: 0,
        });
        for one in each.iter() {
            sum.sum = sum.sum.wrapping_add(one.sum);
            sum.buckets
                .iter_mut()
                .zip(&one.buckets)
                .for_each(|(to, from)| *to += from);
        }
        Ok(sum)
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        if let Some(folder) = &self.pins {
            for map in pinned() {
                let _ = fs::remove_file(folder.join(map.to_ascii_lowercase()));
            }
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Tagger {
    /// Says whose a socket is, before it connects. If that fails it is not measured.
    pub fn tag(&self, socket: BorrowedFd<'_>) {
        let tag = Tag {
            slot: self.slot,
            role: ROLE_UPSTREAM,
            ..Tag::default()
        };
        super::update_element(self.tags.as_fd(), &socket.as_raw_fd(), &tag);
    }
}

/// Pins what people and tools read; gives the folder. What a former process left is replaced.
fn pin(ebpf: &Ebpf, pin_path: &str, addresses: &[SocketAddr]) -> Option<PathBuf> {
    let port = addresses.first()?.port();
    let folder = Path::new(pin_path).join(format!("v{ABI}")).join(port.to_string());
    match pin_below(ebpf, &folder) {
        Ok(()) => Some(folder),
        Err(error) => {
            let path = folder.display();
            tracing::info!("the kernel's histograms are not pinned at {path}: {error:#}");
            None
        }
    }
}

fn pin_below(ebpf: &Ebpf, folder: &Path) -> Result<()> {
    const HINT: &str = "is a bpffs mounted there?";
    fs::create_dir_all(folder).context(HINT)?;
    for map in pinned() {
        let path = folder.join(map.to_ascii_lowercase());
        let _ = fs::remove_file(&path);
        ebpf.map(map)
            .context("there is no such map")?
            .pin(&path)
            .context(HINT)?;
    }
    Ok(())
}

/// The maps that are pinned, under their names in small letters.
fn pinned() -> impl Iterator<Item = &'static str> {
    HISTOGRAMS.iter().map(|(map, ..)| *map).chain(["NAMES"])
}

/// What was counted between two readings.
fn seen(before: &[Counts], now: &[Counts]) -> Seen {
    let mut seen = Seen::default();
    for (before, now) in before.iter().zip(now) {
        seen.runs += now.runs.wrapping_sub(before.runs);
        seen.begun += now.begun.wrapping_sub(before.begun);
        seen.ended += now.ended.wrapping_sub(before.ended);
    }
    seen
}

/// A program of [`TRACED`].
fn traced<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint> {
    Ok(ebpf.program_mut(name).context("a program is missing")?.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("there is no map {name}"))
}

fn descriptor(map: &Map) -> Result<OwnedFd> {
    let Map::SkStorage(data) = map else {
        anyhow::bail!("the tags are no socket storage")
    };
    Ok(data.fd().as_fd().try_clone_to_owned()?)
}

/// The folder of this process's own cgroup of version 2.
fn cgroup() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        after
            .starts_with("cgroup2 ")
            .then(|| (root.to_owned(), point.to_owned()))
    })?;
    let below = own.strip_prefix(mount.0.as_str()).unwrap_or(own);
    Some(Path::new(&mount.1).join(below.trim_start_matches('/')))
}
