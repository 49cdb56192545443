//! Compressed requests, honest and not.

use crate::gateway::{Answer, Gateway, Setup, question, start};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::Write;

async fn post(gateway: &Gateway, encoding: &str, body: Vec<u8>) -> Answer {
    gateway.send(Method::POST, "/v1/chat/completions", &[("content-encoding", encoding)], body).await
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// A zstd frame of blocks that each say "131072 times this byte".
fn zstd_bomb(blocks: usize, window: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    for at in 1..=blocks {
        let header = (131_072_u32 << 3) | 1 << 1 | u32::from(at == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(b' ');
    }
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_inflates_beyond_the_limit_is_refused_however_small_it_is() {
    let gateway = Setup::default().flag("body-bytes-max", 1 << 20).start().await;
    // 8 MiB in 8 KB, and 1.3 GB in 40 KB. A window of 64 KiB.
    let bombs = [("gzip", gzip(&vec![b' '; 8 << 20])), ("zstd", zstd_bomb(10_000, 6 << 3))];
    for (encoding, bomb) in bombs {
        assert!(bomb.len() < 50_000, "{}", bomb.len());
        let error = post(&gateway, encoding, bomb).await.refused(413);
        assert!(error["message"].as_str().expect("text").contains("1048576 bytes"), "{error}");
    }
    let mut fits = question("Hello", false).to_string();
    fits += &" ".repeat((1 << 20) - fits.len());
    for (encoding, body) in [("gzip", gzip(fits.as_bytes())), ("zstd", zstd(fits.as_bytes()))] {
        assert_eq!(post(&gateway, encoding, body).await.status, 200, "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_inflated_is_refused() {
    let gateway = start().await;
    let text = question("Hello", false).to_string();
    for (encoding, whole) in [("gzip", gzip(text.as_bytes())), ("zstd", zstd(text.as_bytes()))] {
        let (half, twice, more) = (whole[..whole.len() / 2].to_vec(), whole.repeat(2), [&whole[..], b"x"].concat());
        for body in [half, twice, more, Vec::new(), text.clone().into_bytes(), vec![0xff; 1000]] {
            let error = post(&gateway, encoding, body.clone()).await.refused(400);
            assert!(error["message"].as_str().expect("text").contains("inflated"), "{encoding} {body:?}: {error}");
        }
    }
    // Windows of 16 MiB and of the largest size there is, and a frame in one piece of 2^64 - 1 bytes.
    let piece = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &[0xff; 8], &[1, 0, 0]].concat();
    for frame in [zstd_bomb(1, 14 << 3), zstd_bomb(1, 0xff), piece] {
        post(&gateway, "zstd", frame).await.refused(400);
    }
    for encoding in ["br", "deflate", "gzip, gzip", "compress", "nonsense"] {
        let answer = post(&gateway, encoding, text.clone().into_bytes()).await;
        answer.refused(415);
        assert_eq!(answer.header("accept-encoding"), "gzip, zstd", "{encoding}");
    }
    assert!(gateway.backend.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_as_good_as_a_plain_one() {
    let gateway = start().await;
    let text = question("What is 12 * 34?", false).to_string();
    for (encoding, body) in [
        ("gzip", gzip(text.as_bytes())),
        ("x-gzip", gzip(text.as_bytes())),
        ("GZIP", gzip(text.as_bytes())),
        ("zstd", zstd(text.as_bytes())),
        ("identity", text.clone().into_bytes()),
    ] {
        assert_eq!(post(&gateway, encoding, body).await.text(), "The result is 408.", "{encoding}");
    }
    let sent = gateway.backend.requests();
    assert!(sent.iter().all(|request| request.headers.get("content-encoding").is_none()));
}
