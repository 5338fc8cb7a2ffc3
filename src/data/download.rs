//! Downloads of published files, data sets and weights, with resume and checksum.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use md5::Md5;
use sha2::Sha256;
use ureq::http::{StatusCode, header};

use super::Progress;
use crate::error::{Error, Result, shown_path};
use crate::file::{digest, sync_folder};

/// A published file: where it is and how to know it.
#[derive(Clone, Copy, Debug)]
pub struct RemoteFile<'a> {
    /// The address, `http` or `https`.
    pub url: &'a str,
    /// The file's name on disk.
    pub name: &'a str,
    /// What its bytes must add up to.
    pub digest: Digest<'a>,
    /// The size in bytes.
    pub n_bytes: u64,
}

/// A file's digest in lower-case hexadecimal digits, of the kind that its publisher gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest<'a> {
    /// 32 digits.
    Md5(&'a str),
    /// 64 digits.
    Sha256(&'a str),
}

/// MNIST's training images.
pub const MNIST_TRAIN: RemoteFile<'static> = RemoteFile {
    url: "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
    name: "train-images-idx3-ubyte.gz",
    digest: Digest::Md5("f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    n_bytes: 9_912_422,
};

/// MNIST's training labels.
pub const MNIST_TRAIN_LABELS: RemoteFile<'static> = RemoteFile {
    url: "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
    name: "train-labels-idx1-ubyte.gz",
    digest: Digest::Md5("d53e105ee54ea40749a09fcbcd1e9432"),
    n_bytes: 28_881,
};

/// MNIST's test images.
pub const MNIST_TEST: RemoteFile<'static> = RemoteFile {
    url: "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
    name: "t10k-images-idx3-ubyte.gz",
    digest: Digest::Md5("9fb629c4189551a2d022fa330f9573f3"),
    n_bytes: 1_648_877,
};

/// MNIST's test labels.
pub const MNIST_TEST_LABELS: RemoteFile<'static> = RemoteFile {
    url: "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
    name: "t10k-labels-idx1-ubyte.gz",
    digest: Digest::Md5("ec29112dd5afa0611ce80d1b7f02629c"),
    n_bytes: 4_542,
};

/// CIFAR-10's binary version, training and test images.
pub const CIFAR10: RemoteFile<'static> = RemoteFile {
    url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    name: "cifar-10-binary.tar.gz",
    digest: Digest::Md5("c32a1d4ab5d03f1284b67883e8d87530"),
    n_bytes: 170_052_171,
};

/// SVHN's training images (cropped digits).
pub const SVHN_TRAIN: RemoteFile<'static> = RemoteFile {
    url: "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
    name: "train_32x32.mat",
    digest: Digest::Md5("e26dedcc434d2e4c54c9b2d4a06d8373"),
    n_bytes: 182_040_794,
};

/// SVHN's test images (cropped digits).
pub const SVHN_TEST: RemoteFile<'static> = RemoteFile {
    url: "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
    name: "test_32x32.mat",
    digest: Digest::Md5("eb5a983be6a315427106f1b164d9cef3"),
    n_bytes: 64_275_384,
};

/// The weights of the network behind FID: Inception-v3 as of 2015-12-05, ported from TensorFlow by pytorch-fid.
pub const INCEPTION: RemoteFile<'static> = RemoteFile {
    url: "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    name: "pt_inception-2015-12-05-6726825d.pth",
    digest: Digest::Sha256("6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"),
    n_bytes: 95_628_359,
};

/// How often [`Progress`] is asked while a server is silent.
const POLL: Duration = Duration::from_millis(100);
/// Chunks that are read ahead of the disk.
const N_AHEAD: usize = 4;

/// Downloads `file` into `folder` and gives its path there. A file that is there already is left alone.
///
/// The bytes go to `NAME.part`, which gets its name when its size and digest are right. An interrupted download leaves
/// `NAME.part` and goes on from there next time. `progress` can stop it at any time, also while the server is silent.
///
/// # Errors
/// [`Error::MissingData`] when the server cannot be reached (within about 15 seconds), offers something else, or breaks
/// off; [`Error::Format`] when what it sent is not the published file: `NAME.part` is then deleted; [`Error::Io`] when
/// `folder` cannot be written; [`Error::Stopped`] when `progress` says so.
pub fn fetch(file: &RemoteFile<'_>, folder: &Path, progress: &mut Progress<'_>) -> Result<PathBuf> {
    let path = folder.join(file.name);
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let part_path = folder.join(format!("{}.part", file.name));
    let mut part = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&part_path)
        .map_err(Error::io(&part_path))?;
    // Two writers would spoil each other's bytes. Some file systems cannot lock; there, the checksum must do.
    if let Err(TryLockError::WouldBlock) = part.try_lock() {
        return Err(Error::MissingData(format!("{}: another process is downloading it", shown_path(&part_path))));
    }

    let received = receive(file, &mut part, &part_path, progress).and_then(|()| verify(file, &mut part, &part_path));
    if let Err(error) = received {
        // Only a true beginning is worth keeping.
        let n_bytes = part.metadata().map_or(0, |part| part.len());
        if n_bytes == 0 || matches!(error, Error::Format { .. }) {
            fs::remove_file(&part_path).map_err(Error::io(&part_path))?;
        }
        return Err(error);
    }
    part.sync_all().map_err(Error::io(&part_path))?;
    fs::rename(&part_path, &path).map_err(Error::io(&path))?;
    sync_folder(&path).map_err(Error::io(&path))?;
    Ok(path)
}

/// Fills `part` up to the file's size, from where an earlier download stopped.
fn receive(file: &RemoteFile<'_>, part: &mut File, part_path: &Path, progress: &mut Progress<'_>) -> Result<()> {
    let n_total = file.n_bytes;
    let mut n_done = part.metadata().map_err(Error::io(part_path))?.len();
    if n_done == n_total {
        return Ok(());
    }
    if n_done > n_total {
        // No beginning of the file.
        n_done = 0;
    }

    // Whatever the network waits for, it waits on a thread of its own. A stopped download leaves it alone: its next event finds nobody.
    let (sender, events) = sync_channel(N_AHEAD);
    let (url, n_there) = (file.url.to_owned(), n_done);
    thread::spawn(move || {
        if let Err(why) = request(&url, n_there, n_total, &sender) {
            let _ = sender.send(Event::Failed(why));
        }
    });
    let failed = |why: String| Error::MissingData(format!("{}: {why}", file.url));
    loop {
        match events.recv_timeout(POLL) {
            Ok(Event::Begins(n_before)) => {
                n_done = n_before;
                part.set_len(n_done).map_err(Error::io(part_path))?;
                part.seek(SeekFrom::Start(n_done)).map_err(Error::io(part_path))?;
            }
            Ok(Event::Bytes(bytes)) => {
                if n_done + bytes.len() as u64 > n_total {
                    let message = format!("the server sends more than the {n_total} bytes expected");
                    return Err(Error::format(part_path, message));
                }
                part.write_all(&bytes).map_err(Error::io(part_path))?;
                n_done += bytes.len() as u64;
            }
            Ok(Event::Ends) if n_done < n_total => {
                return Err(failed(format!("broke off after {n_done} of {n_total} bytes")));
            }
            Ok(Event::Ends) => return Ok(()),
            Ok(Event::Breaks(why)) => {
                return Err(failed(format!("broke off after {n_done} of {n_total} bytes: {why}")));
            }
            Ok(Event::Failed(why)) => return Err(failed(why)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(failed("the connection's thread ended".into())),
        }
        if progress(n_done, n_total).is_break() {
            return Err(Error::Stopped(format!("stopped after {n_done} of {n_total} bytes of {}", file.url)));
        }
    }
}

/// What happens on the network.
enum Event {
    /// The server sends the file, from this byte on.
    Begins(u64),
    Bytes(Vec<u8>),
    Ends,
    /// In the middle, with the reason.
    Breaks(String),
    /// Before anything came, with the reason.
    Failed(String),
}

/// Asks for the file of `n_total` bytes at `url` from byte `n_done` on. What comes is sent to `events`; the error is why nothing does.
fn request(url: &str, n_done: u64, n_total: u64, events: &SyncSender<Event>) -> Result<(), String> {
    // Identity: a server that compresses on the way would change the size and the checksum.
    let mut request = agent().get(url).header(header::ACCEPT_ENCODING, "identity");
    if n_done > 0 {
        request = request.header(header::RANGE, format!("bytes={n_done}-"));
    }
    let mut response = request.call().map_err(|error| error.to_string())?;
    let n_before = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(header::CONTENT_RANGE).map_or(&b""[..], |range| range.as_bytes());
            let expected = format!("bytes {n_done}-");
            if !range.starts_with(expected.as_bytes()) {
                return Err(format!("the server sends \"{}\"; expected \"{expected}\"", range.escape_ascii()));
            }
            n_done
        }
        // The whole file, asked for or not.
        StatusCode::OK => 0,
        status => return Err(format!("the server answers {status}")),
    };
    let n_expected = n_total - n_before;
    if let Some(n_offered) = response.body().content_length().filter(|&n| n != n_expected) {
        return Err(format!("the server offers {n_offered} bytes; expected {n_expected}"));
    }

    let mut body = response.body_mut().as_reader();
    let mut event = Event::Begins(n_before);
    // Until the download is given up.
    while events.send(event).is_ok() {
        let mut chunk = vec![0; 1 << 16];
        event = match body.read(&mut chunk) {
            Ok(0) => Event::Ends,
            Ok(n_read) => {
                chunk.truncate(n_read);
                Event::Bytes(chunk)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Event::Bytes(Vec::new()),
            Err(error) => Event::Breaks(error.to_string()),
        };
        if matches!(event, Event::Ends | Event::Breaks(_)) {
            let _ = events.send(event);
            break;
        }
    }
    Ok(())
}

/// Every phase has its limit, and so has silence in the middle; a long download as a whole has none.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(Duration::from_secs(5)))
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_send_request(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(Duration::from_secs(15)))
        .timeout_per_read(Some(Duration::from_secs(15)))
        .build()
        .into()
}

fn verify(file: &RemoteFile<'_>, part: &mut File, part_path: &Path) -> Result<()> {
    part.rewind().map_err(Error::io(part_path))?;
    let (kind, found, expected) = match file.digest {
        Digest::Md5(expected) => ("MD5", digest::<Md5>(part, part_path)?, expected),
        Digest::Sha256(expected) => ("SHA-256", digest::<Sha256>(part, part_path)?, expected),
    };
    if found != expected {
        let message = format!("the download has {kind} {found}; expected {expected} (it is deleted; try again)");
        return Err(Error::format(part_path, message));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::time::Instant;

    use std::ops::ControlFlow;

    use super::super::unwatched;
    use super::*;

    const BODY: &[u8] = b"0123456789abcdef";
    const BODY_MD5: Digest<'static> = Digest::Md5("4032af8d61035123906e58e067140cc5");
    const BODY_SHA256: Digest<'static> =
        Digest::Sha256("9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f");

    /// A server that gives one prepared answer to each connection in turn. Its thread, joined, gives the `Range`
    /// headers.
    fn serve(answers: Vec<Vec<u8>>) -> (String, thread::JoinHandle<Vec<Option<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let answer_one = |answer: Vec<u8>| {
                let (mut stream, _) = listener.accept().unwrap();
                let request = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap());
                let request: Vec<_> = request.take_while(|line| !line.is_empty()).collect();
                stream.write_all(&answer).unwrap();
                request.iter().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned))
            };
            answers.into_iter().map(answer_one).collect()
        });
        (url, server)
    }

    fn answer(head: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat()
    }

    fn whole() -> Vec<u8> {
        answer("200 OK\r\nContent-Length: 16", BODY)
    }

    fn remote<'a>(url: &'a str, digest: Digest<'a>) -> RemoteFile<'a> {
        RemoteFile { url, name: "file.bin", digest, n_bytes: BODY.len() as u64 }
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_whole_download_is_checked_and_gets_its_name() {
        let (url, server) = serve(vec![whole()]);
        let folder = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        let inside = folder.path().join("new/folder");
        let path = fetch(&remote(&url, BODY_MD5), &inside, &mut |done, total| {
            told.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), BODY);
        assert_eq!(names(&inside), ["file.bin"]);
        assert_eq!((told.first(), told.last()), (Some(&(0, 16)), Some(&(16, 16))));
        assert_eq!(server.join().unwrap(), [None]);

        // No server listens any more, and none is needed.
        assert_eq!(fetch(&remote(&url, BODY_MD5), &inside, &mut unwatched).unwrap(), path);
    }

    #[test]
    fn a_broken_connection_is_resumed_where_it_broke() {
        let rest = answer("206 Partial Content\r\nContent-Length: 10\r\nContent-Range: bytes 6-15/16", &BODY[6..]);
        let (url, server) = serve(vec![answer("200 OK\r\nContent-Length: 16", &BODY[..6]), rest]);
        let folder = tempfile::tempdir().unwrap();
        let error = fetch(&remote(&url, BODY_MD5), folder.path(), &mut unwatched).unwrap_err();
        assert!(error.to_string().contains("broke off after 6 of 16 bytes"), "{error}");
        assert_eq!(fs::read(folder.path().join("file.bin.part")).unwrap(), &BODY[..6]);

        let mut told = Vec::new();
        let path = fetch(&remote(&url, BODY_MD5), folder.path(), &mut |done, _| {
            told.push(done);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(fs::read(path).unwrap(), BODY);
        assert_eq!(names(folder.path()), ["file.bin"]);
        assert_eq!(told.first(), Some(&6));
        assert_eq!(server.join().unwrap(), [None, Some("bytes=6-".into())]);
    }

    #[test]
    fn a_server_without_ranges_starts_again() {
        let (url, server) = serve(vec![whole()]);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file.bin.part"), "012345").unwrap();
        let path = fetch(&remote(&url, BODY_MD5), folder.path(), &mut unwatched).unwrap();
        assert_eq!(fs::read(path).unwrap(), BODY);
        assert_eq!(server.join().unwrap(), [Some("bytes=6-".into())]);
    }

    #[test]
    fn a_digest_of_either_kind_is_checked() {
        for (right, wrong, message) in [
            (BODY_MD5, Digest::Md5("00"), "has MD5 4032af8d61035123906e58e067140cc5; expected 00 "),
            (BODY_SHA256, Digest::Sha256("00"), "has SHA-256 9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e5"),
        ] {
            let (url, server) = serve(vec![whole(), whole()]);
            let folder = tempfile::tempdir().unwrap();
            let error = fetch(&remote(&url, wrong), folder.path(), &mut unwatched).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{error:?}");
            assert!(error.to_string().contains(message), "{error}");
            assert!(names(folder.path()).is_empty());
            let path = fetch(&remote(&url, right), folder.path(), &mut unwatched).unwrap();
            assert_eq!(fs::read(path).unwrap(), BODY);
            server.join().unwrap();
        }
    }

    #[test]
    fn a_digest_of_the_other_kind_does_not_pass() {
        let (Digest::Md5(md5), Digest::Sha256(sha256)) = (BODY_MD5, BODY_SHA256) else { panic!("one of each") };
        for other in [Digest::Md5(sha256), Digest::Sha256(md5)] {
            let (url, server) = serve(vec![whole()]);
            let folder = tempfile::tempdir().unwrap();
            assert!(fetch(&remote(&url, other), folder.path(), &mut unwatched).is_err());
            server.join().unwrap();
        }
    }

    #[test]
    fn published_digests_have_as_many_digits_as_their_kind() {
        let data_sets =
            [MNIST_TRAIN, MNIST_TRAIN_LABELS, MNIST_TEST, MNIST_TEST_LABELS, CIFAR10, SVHN_TRAIN, SVHN_TEST];
        for file in data_sets.into_iter().chain([INCEPTION]) {
            let (digits, n) = match file.digest {
                Digest::Md5(digits) => (digits, 32),
                Digest::Sha256(digits) => (digits, 64),
            };
            assert!(digits.len() == n && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{digits}");
            assert!(file.url.ends_with(file.name), "{}", file.url);
        }
    }

    #[test]
    fn a_complete_or_overlong_part_is_handled_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("file.bin.part");
        // Complete: needs no server.
        fs::write(&part, BODY).unwrap();
        let path = fetch(&remote("http://127.0.0.1:1/", BODY_MD5), folder.path(), &mut unwatched).unwrap();
        fs::remove_file(path).unwrap();
        // Longer than the file: it is no beginning of it.
        fs::write(&part, [BODY, BODY].concat()).unwrap();
        let (url, server) = serve(vec![whole()]);
        assert_eq!(fs::read(fetch(&remote(&url, BODY_MD5), folder.path(), &mut unwatched).unwrap()).unwrap(), BODY);
        assert_eq!(server.join().unwrap(), [None]);
    }

    #[test]
    fn answers_that_are_not_the_file_are_refused_and_keep_what_is_there() {
        let refused = |part: &str, answer: Vec<u8>| {
            let (url, server) = serve(vec![answer]);
            let folder = tempfile::tempdir().unwrap();
            let part_path = folder.path().join("file.bin.part");
            if !part.is_empty() {
                fs::write(&part_path, part).unwrap();
            }
            let error = fetch(&remote(&url, BODY_MD5), folder.path(), &mut unwatched).unwrap_err().to_string();
            server.join().unwrap();
            assert_eq!(fs::read_to_string(part_path).unwrap_or_default(), part);
            assert_eq!(names(folder.path()).is_empty(), part.is_empty());
            error
        };
        for part in ["", "012345"] {
            assert!(refused(part, answer("404 Not Found\r\nContent-Length: 0", b"")).contains("answers 404 Not Found"));
            assert!(refused(part, answer("503 Service Unavailable\r\nContent-Length: 0", b"")).contains("answers 503"));
            let login_page = answer("200 OK\r\nContent-Length: 6", b"<html>");
            assert!(refused(part, login_page).contains("offers 6 bytes; expected 16"));
        }
        let other_range = answer("206 Partial Content\r\nContent-Range: bytes 0-15/16", BODY);
        assert!(refused("012345", other_range).contains("sends \"bytes 0-15/16\"; expected \"bytes 6-\""));
        let shorter = answer("416 Range Not Satisfiable\r\nContent-Range: bytes */5", b"");
        assert!(refused("012345", shorter).contains("answers 416"));
    }

    #[test]
    fn a_server_that_sends_too_much_leaves_nothing() {
        let (url, server) = serve(vec![answer("200 OK", &[BODY, b"!"].concat())]);
        let folder = tempfile::tempdir().unwrap();
        let error = fetch(&remote(&url, BODY_MD5), folder.path(), &mut unwatched).unwrap_err();
        assert!(error.to_string().contains("sends more than the 16 bytes expected"), "{error}");
        assert!(names(folder.path()).is_empty());
        server.join().unwrap();
    }

    #[test]
    fn a_download_from_a_silent_server_stops_within_a_second_and_keeps_what_came() {
        for n_sent in [0, 6] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
            let (done, wait) = sync_channel::<()>(0);
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                if n_sent > 0 {
                    stream.write_all(&answer("200 OK\r\nContent-Length: 16", &BODY[..n_sent])).unwrap();
                }
                // Says nothing more until the test is over.
                let _ = wait.recv();
            });
            let folder = tempfile::tempdir().unwrap();
            let mut asked: Option<Instant> = None;
            let error = fetch(&remote(&url, BODY_MD5), folder.path(), &mut |n_done, _| {
                if n_done < n_sent as u64 {
                    return ControlFlow::Continue(());
                }
                // Asked to stop in the middle of the silence.
                match asked.get_or_insert_with(Instant::now).elapsed() {
                    waited if waited < Duration::from_millis(300) => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            })
            .unwrap_err();
            let took = asked.unwrap().elapsed();
            assert!(took < Duration::from_millis(1300), "{took:?}");
            assert!(matches!(&error, Error::Stopped(_)), "{error:?}");
            assert!(error.to_string().contains(&format!("stopped after {n_sent} of 16 bytes of {url}")), "{error}");
            let part = folder.path().join("file.bin.part");
            assert_eq!(fs::read(&part).unwrap_or_default(), &BODY[..n_sent]);
            assert_eq!(part.exists(), n_sent > 0);
            drop(done);
            server.join().unwrap();
        }
    }

    #[test]
    fn two_downloads_of_one_file_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let other = File::create(folder.path().join("file.bin.part")).unwrap();
        other.try_lock().unwrap();
        let error = fetch(&remote("http://127.0.0.1:1/", BODY_MD5), folder.path(), &mut unwatched).unwrap_err();
        assert!(error.to_string().contains("another process is downloading"), "{error}");
    }

    #[test]
    fn no_network_fails_soon_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetch(&remote("http://127.0.0.1:1/", BODY_MD5), folder.path(), &mut unwatched).unwrap_err();
        assert!(matches!(error, Error::MissingData(_)), "{error:?}");
        assert!(names(folder.path()).is_empty());
    }
}
