#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use super::frame::testing::{any, syn_stream};
use super::*;
use tokio::io::{AsyncWriteExt as _, WriteHalf};

/// The client's side of a connection.
struct Peer {
    frames: FramedRead<ReadHalf<DuplexStream>, Frames>,
    write: WriteHalf<DuplexStream>,
    packer: Packer,
}

fn connect() -> (Peer, Connection) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(ours);
    (Peer { frames: FramedRead::new(read, Frames::new()), write, packer: Packer::default() }, Connection::open(theirs))
}

impl Peer {
    async fn send(&mut self, frame: Bytes) {
        self.write.write_all(&frame).await.unwrap();
    }

    async fn open(&mut self, id: u32) {
        let frame = syn_stream(id, false, &[("streamtype", "data")], &mut self.packer);
        self.send(frame).await;
    }

    /// The next frame that is not about windows or settings.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.frames.next().await?.unwrap();
            if !matches!(frame, Frame::WindowUpdate { .. } | Frame::Settings(_)) {
                return Some(frame);
            }
        }
    }

    /// All data of a stream until its end.
    async fn data(&mut self, wanted: u32) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let Frame::Data { id, fin, payload } = self.next().await.unwrap() else { panic!("no data") };
            assert_eq!(id, wanted);
            all.extend_from_slice(&payload);
            if fin {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_carries_both_ways_and_ends_each_way() {
    let (mut peer, mut connection) = connect();
    peer.open(1).await;
    assert_eq!(peer.next().await, Some(Frame::SynReply { id: 1 }));
    let mut stream = connection.streams.recv().await.unwrap();
    assert_eq!(stream.headers["streamtype"], "data");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| u8::try_from(number % 255).unwrap()).collect();
    let (there, back) = tokio::join!(
        async {
            for piece in sent.chunks(50_000) {
                peer.send(frame::data(1, false, piece)).await;
            }
            peer.send(frame::data(1, true, b"end")).await;
            peer.data(1).await
        },
        async {
            let mut got = Vec::new();
            stream.pipe.read_to_end(&mut got).await.unwrap();
            stream.pipe.write_all(&got).await.unwrap();
            stream.pipe.shutdown().await.unwrap();
            got
        }
    );
    assert_eq!(there, back);
    assert_eq!(back, [&sent[..], b"end"].concat());
}

#[tokio::test]
async fn a_window_that_was_announced_is_kept_to() {
    let (mut peer, mut connection) = connect();
    peer.send(frame::settings(&[(INITIAL_WINDOW_SIZE, 10)])).await;
    peer.open(1).await;
    peer.next().await;
    let mut stream = connection.streams.recv().await.unwrap();
    stream.pipe.write_all(b"0123456789abcdef").await.unwrap();
    assert_eq!(peer.next().await, Some(Frame::Data { id: 1, fin: false, payload: Bytes::from_static(b"0123456789") }));
    // A ping's answer shows that nothing else was sent meanwhile.
    peer.send(frame::ping(5)).await;
    assert_eq!(peer.next().await, Some(Frame::Ping { id: 5 }));
    peer.send(frame::window_update(1, 100)).await;
    assert_eq!(peer.next().await, Some(Frame::Data { id: 1, fin: false, payload: Bytes::from_static(b"abcdef") }));
}

#[tokio::test]
async fn what_is_taken_is_given_back() {
    let (mut peer, mut connection) = connect();
    peer.open(1).await;
    let mut stream = connection.streams.recv().await.unwrap();
    peer.send(frame::data(1, false, &[7; 1000])).await;
    stream.pipe.read_exact(&mut [0; 1000]).await.unwrap();
    let mut given = Vec::new();
    while given.len() < 2 {
        if let Frame::WindowUpdate { id, delta } = peer.frames.next().await.unwrap().unwrap() {
            given.push((id, delta));
        }
    }
    assert_eq!(given, [(1, 1000), (0, 1000)]);
}

#[tokio::test]
async fn a_reader_that_stays_away_bounds_what_is_held() {
    let (mut peer, mut connection) = connect();
    peer.open(1).await;
    let stream = connection.streams.recv().await.unwrap();
    let mut flood = std::pin::pin!(async {
        for _ in 0..(8 << 20) / PIECE_BYTES {
            peer.send(frame::data(1, false, &[0; PIECE_BYTES])).await;
        }
    });
    // The transport holds 1 MiB, the stream 256 KiB and 64 KiB more: then the flood stands still.
    let patience = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, &mut flood).await.is_err());
    // When nobody is left to read it, all of it is thrown away and the connection goes on.
    drop(stream);
    flood.await;
}

#[tokio::test]
async fn a_reset_ends_both_ways() {
    let (mut peer, mut connection) = connect();
    peer.open(1).await;
    peer.next().await;
    let mut stream = connection.streams.recv().await.unwrap();
    peer.send(frame::reset(1, Reason::Protocol)).await;
    assert_eq!(stream.pipe.read(&mut [0; 10]).await.unwrap(), 0);
    // The pipe breaks as soon as both of its tasks have ended.
    while stream.pipe.write_all(&[0; 1024]).await.is_ok() {}
}

#[tokio::test]
async fn rules_are_kept() {
    let (mut peer, mut connection) = connect();
    peer.open(2).await;
    assert_eq!(peer.next().await, Some(Frame::Reset { id: 2 }));
    peer.send(frame::data(9, false, b"of no stream")).await;
    assert_eq!(peer.next().await, Some(Frame::Reset { id: 9 }));
    peer.open(3).await;
    assert_eq!(peer.next().await, Some(Frame::SynReply { id: 3 }));
    peer.open(3).await;
    assert_eq!(peer.next().await, Some(Frame::Reset { id: 3 }));
    let _stream = connection.streams.recv().await.unwrap();
    peer.send(any(6, b"a ping of a wrong length is too short".get(..2).unwrap())).await;
    assert_eq!(peer.next().await, Some(Frame::GoAway));
    connection.gone().await;
}

#[tokio::test]
async fn the_end_comes_after_everything_written() {
    let (mut peer, mut connection) = connect();
    peer.open(1).await;
    peer.next().await;
    let mut stream = connection.streams.recv().await.unwrap();
    stream.pipe.write_all(b"last words").await.unwrap();
    drop(stream);
    let (said, ()) = tokio::join!(
        async {
            let said = peer.data(1).await;
            assert_eq!(peer.next().await, Some(Frame::GoAway));
            peer.write.shutdown().await.unwrap();
            said
        },
        connection.finish()
    );
    assert_eq!(said, b"last words");
    assert_eq!(peer.next().await, None);
}

#[tokio::test]
async fn a_command_begins_when_as_many_streams_are_open_as_it_has() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(ours);
    let mut peer = Peer { frames: FramedRead::new(read, Frames::new()), write, packer: Packer::default() };
    // A terminal is asked for: its size would be the third stream, but there are clients that open another.
    for (id, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
        let frame = syn_stream(id, false, &[("streamtype", kind)], &mut peer.packer);
        peer.send(frame).await;
    }
    let command = |mut streams: crate::stream::ExecStreams| async move {
        streams.stdout.take().unwrap().write_all(b"said").await.unwrap();
        Ok(0)
    };
    let running = super::super::exec::over_spdy(theirs, 3, Box::new(move |streams| Box::pin(command(streams))));
    let listening = async {
        let mut data = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        let mut ended = Vec::new();
        loop {
            let frame = peer.next().await.unwrap();
            if frame == Frame::GoAway {
                break;
            }
            if let Frame::Data { id, fin, payload } = frame {
                data.entry(id).or_default().extend_from_slice(&payload);
                ended.extend(fin.then_some(id));
            }
        }
        peer.write.shutdown().await.unwrap();
        ended.sort_unstable();
        assert_eq!((data[&3].as_slice(), ended.as_slice()), (&b"said"[..], &[1, 3, 5][..]));
        assert!(String::from_utf8(data[&1].clone()).unwrap().contains("Success"));
    };
    tokio::join!(running, listening);
}
