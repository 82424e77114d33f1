#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use super::frame::testing::masked;
use super::*;
use tokio::io::AsyncWriteExt as _;

/// Reads a short frame of the server's: its first byte and its payload.
async fn frame(peer: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    peer.read_exact(&mut head).await.unwrap();
    assert!(head[1] < 126, "a longer frame than was expected");
    let mut payload = vec![0; usize::from(head[1])];
    peer.read_exact(&mut payload).await.unwrap();
    (head[0], payload)
}

#[tokio::test]
async fn channels_carry_both_ways() {
    let (mut peer, transport) = tokio::io::duplex(1 << 16);
    let (connection, mut far) = Connection::channels(transport, [0, 1, 3], true);
    connection.greet(1).await;
    assert_eq!(frame(&mut peer).await, (0x82, vec![1]));
    peer.write_all(&masked(0x82, b"\0some")).await.unwrap();
    peer.write_all(&masked(0x82, b"\x09for nobody")).await.unwrap();
    peer.write_all(&masked(0x02, b"\0 in")).await.unwrap();
    peer.write_all(&masked(0x89, b"ping")).await.unwrap();
    peer.write_all(&masked(0x80, b"put")).await.unwrap();
    assert_eq!(frame(&mut peer).await, (0x8a, b"ping".to_vec()));
    peer.write_all(&masked(0x82, &[255, 0])).await.unwrap();
    let mut input = String::new();
    far.remove(&0).unwrap().read_to_string(&mut input).await.unwrap();
    assert_eq!(input, "some input");
    far.get_mut(&1).unwrap().write_all(b"output").await.unwrap();
    assert_eq!(frame(&mut peer).await, (0x82, b"\x01output".to_vec()));
    far.get_mut(&3).unwrap().write_all(b"bye").await.unwrap();
    drop(far);
    let finishing = tokio::spawn(connection.finish());
    assert_eq!(frame(&mut peer).await, (0x82, b"\x03bye".to_vec()));
    assert_eq!(frame(&mut peer).await, (0x88, vec![0x03, 0xe8]));
    peer.write_all(&masked(0x88, &[0x03, 0xe8])).await.unwrap();
    finishing.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_breaks_a_rule_is_told() {
    let (mut peer, transport) = tokio::io::duplex(1 << 16);
    let (connection, mut far) = Connection::channels(transport, [0], false);
    peer.write_all(&[0x82, 1, 0]).await.unwrap();
    assert_eq!(frame(&mut peer).await, (0x88, vec![0x03, 0xea]));
    connection.gone().await;
    assert_eq!(far.remove(&0).unwrap().read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_tunnel_is_its_messages_one_after_another() {
    let (mut peer, transport) = tokio::io::duplex(1 << 16);
    let (connection, mut inner) = Connection::tunnel(transport);
    for part in ["abc", "", "def"] {
        peer.write_all(&masked(0x82, part.as_bytes())).await.unwrap();
    }
    let mut bytes = [0; 6];
    inner.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"abcdef");
    inner.write_all(b"back").await.unwrap();
    drop(inner);
    let finishing = tokio::spawn(connection.finish());
    assert_eq!(frame(&mut peer).await, (0x82, b"back".to_vec()));
    assert_eq!(frame(&mut peer).await.0, 0x88);
    drop(peer);
    finishing.await.unwrap();
}
