//! The main job in one breath.

use crate::support::{self, *};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_up_and_comes_down_whatever_its_size() {
    let house = support::start().await;
    for (name, size) in
        [("/empty", 0), ("/small", 11), ("/odd", 3 * MIB + 7), ("/full", 2 * BLOCK), ("/large", 45 * MIB + 5)]
    {
        let bytes = noise(size, 7);
        let answer = upload(&house, spec(name), &bytes).await.expect(name);
        assert!(answer.verified, "{name}");
        let back = download(&house, name).await.expect(name);
        assert!(back.bytes == bytes && back.trailer.verified, "{name}");
        assert_eq!(back.trailer.content_hash, answer.content_hash);
    }
    assert!(house.control().wrong_answers().is_empty());
}
