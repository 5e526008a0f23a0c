//! Descriptors over a unix socket (unix(7), `SCM_RIGHTS`), and whose process is at its other end (`SO_PEERCRED`).
//!
//! Invariants: a received descriptor is owned at once, and closed on exec. Deliberately absent: what they are.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Descriptors of one message; the kernel allows 253.
const BATCH: usize = 128;
/// Room for the control part of such a message.
const SPACE: usize = 64 + BATCH * size_of::<RawFd>();

#[repr(C, align(8))]
struct Room([u8; SPACE]);

/// Sends descriptors; the receiver knows how many.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send(stream: &UnixStream, descriptors: &[RawFd]) -> io::Result<()> {
    for batch in descriptors.chunks(BATCH) {
        let mut byte = [batch.len() as u8];
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let mut room = Room([0; SPACE]);
        let bytes = size_of_val(batch) as u32;
        // SAFETY: a structure of integers and pointers, for which zeros are a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut room).cast();
        // SAFETY: plain arithmetic.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as usize;
        // SAFETY: the room is larger than one header and the batch, and aligned like a header.
        let sent = unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(bytes) as usize;
            std::ptr::copy_nonoverlapping(batch.as_ptr(), libc::CMSG_DATA(header).cast(), batch.len());
            libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
        };
        if sent != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Receives `count` descriptors.
///
/// # Errors
/// Those of recvmsg(2); `UnexpectedEof` if the peer sends fewer.
pub fn receive(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    while all.len() < count {
        let before = all.len();
        receive_batch(stream, &mut all)?;
        if all.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(all)
}

fn receive_batch(stream: &UnixStream, into: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut byte = [0u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut room = Room([0; SPACE]);
    // SAFETY: a structure of integers and pointers, for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut room).cast();
    message.msg_controllen = SPACE;
    // SAFETY: every part of the message lives through the call.
    let received = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled the room with whole headers; each descriptor in them belongs to us and to nobody else.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    into.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(())
}

/// Whether the process at the other end is of this user, or of root.
pub fn is_trusted(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure has room for as many bytes as the kernel is told.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    };
    // SAFETY: a plain system call.
    result == 0 && (peer.uid == 0 || peer.uid == unsafe { libc::geteuid() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listener_works_at_the_other_end_and_so_do_more_than_one_message_holds() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let many = vec![listener.as_raw_fd(); 300];
        send(&here, &many).unwrap();
        let received = receive(&there, 300).unwrap();
        drop(listener);
        let same = TcpListener::from(received.into_iter().next_back().unwrap());
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        same.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_peer_that_closes_early_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive(&there, 1).is_err());
    }

    #[test]
    fn our_own_process_is_trusted() {
        let (here, _there) = UnixStream::pair().unwrap();
        assert!(is_trusted(&here));
    }
}
