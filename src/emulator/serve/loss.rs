//! A line that loses something, as far as that is to be seen above TCP, which sends again what was lost: it comes late, and so does
//! all that is behind it; or the connection is reset. What TCP does to its window meanwhile is not shown.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::time::Sleep;

use crate::emulator::Host;

/// The same terms and the same order of connections lose the same bytes of each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Loss {
    /// How likely a segment is lost, 0 to 1: its direction stands still for `stall_millis` before it goes.
    pub stalls: f64,
    /// The time after which TCP sends again.
    pub stall_millis: u64,
    /// How likely the connection is reset instead of a segment going, 0 to 1.
    pub resets: f64,
    pub segment_bytes: u64,
    pub seed: u64,
}

impl Default for Loss {
    fn default() -> Self {
        // Linux sends again after 200 ms at the earliest; 64 KiB is what a card takes at once.
        Self { stalls: 0.0, stall_millis: 200, resets: 0.0, segment_bytes: 65_536, seed: 0 }
    }
}

impl Loss {
    /// # Errors
    /// A chance that is none, segments without bytes.
    pub(in crate::emulator) fn check(&self) -> Result<(), String> {
        for (name, chance) in [("stalls", self.stalls), ("resets", self.resets)] {
            if !(0.0..=1.0).contains(&chance) {
                return Err(format!("{name}: {chance} is not between 0 and 1"));
            }
        }
        if self.segment_bytes == 0 {
            return Err("segment_bytes: is 0".to_owned());
        }
        Ok(())
    }
}

/// Deals the losses of one host's connections.
#[derive(Debug)]
pub(super) struct Losses {
    host: Host,
    terms: Option<Loss>,
    /// Connections since the terms are these.
    made: u64,
}

impl Losses {
    pub fn of(host: Host) -> Losses {
        Losses { host, terms: None, made: 0 }
    }

    /// Of the next connection: what comes, what goes.
    pub fn next(&mut self, terms: Option<Loss>) -> Option<[Segments; 2]> {
        if self.terms != terms {
            (self.terms, self.made) = (terms, 0);
        }
        self.made += 1;
        // Hosts are few, directions two.
        let number = (self.made * 8 + self.host as u64) * 2;
        terms.map(|terms| [0, 1].map(|direction| Segments::new(terms, number + direction)))
    }
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Segments {
    terms: Loss,
    dice: StdRng,
    /// Bytes of the segment that is on its way.
    left: u64,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Segments {
    fn new(terms: Loss, number: u64) -> Segments {
        let dice = StdRng::seed_from_u64(terms.seed.wrapping_mul(1 << 32).wrapping_add(number));
        Segments { terms, dice, left: 0, stalled: None }
    }

    /// The most that may go now.
    ///
    /// # Errors
    /// `ConnectionReset`.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            self.left = self.terms.segment_bytes.max(1);
            // Both are always thrown: where segments are lost does not depend on how likely resets are.
            let (stall, reset) = (self.dice.random::<f64>(), self.dice.random::<f64>());
            if reset < self.terms.resets {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if stall < self.terms.stalls {
                let span = Duration::from_millis(self.terms.stall_millis);
                self.stalled = Some(Box::pin(tokio::time::sleep(span)));
            }
        }
        if let Some(sleep) = &mut self.stalled {
            std::task::ready!(sleep.as_mut().poll(context));
            self.stalled = None;
        }
        Poll::Ready(Ok(usize::try_from(self.left).unwrap_or(usize::MAX)))
    }

    pub fn went(&mut self, bytes: usize) {
        self.left -= (bytes as u64).min(self.left);
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
        time::Instant,
    };

    use super::*;
    use crate::emulator::serve::wire::Paced;

    const SEGMENT: usize = 1000;

    /// Bytes that came through before a reset of the connection of this number, and how often it stood still.
    async fn through(terms: Loss, number: usize) -> (usize, Vec<usize>) {
        let mut losses = Losses::of(Host::Content);
        let dealt = (0..number).map(|_| losses.next(Some(terms))).last().flatten();
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut line = Paced::new(near, None, dealt, |_: &DuplexStream| ());
        let (mut stood, mut sent) = (Vec::new(), 0);
        while sent < 400 * SEGMENT {
            let begin = Instant::now();
            match line.write(&[7; SEGMENT]).await {
                Ok(bytes) => {
                    if begin.elapsed() >= Duration::from_millis(terms.stall_millis) {
                        stood.push(sent);
                    }
                    sent += bytes;
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    // Nor does anything come any more.
                    let read = line.read(&mut [0; 1]).await.expect_err("reset");
                    assert_eq!(read.kind(), io::ErrorKind::ConnectionReset);
                    break;
                }
            }
        }
        drop(line);
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.expect("what went before");
        assert!(came.len() == sent && came.iter().all(|byte| *byte == 7));
        (sent, stood)
    }

    #[tokio::test]
    async fn what_is_lost_comes_late_at_the_same_places_for_the_same_seed_and_all_of_it_comes() {
        let terms = Loss { stalls: 0.05, stall_millis: 20, segment_bytes: SEGMENT as u64, seed: 7, ..Loss::default() };
        let (sent, first) = through(terms, 1).await;
        assert_eq!(sent, 400 * SEGMENT);
        // 20 are to be expected.
        assert!((8..40).contains(&first.len()), "{first:?}");
        // A busy machine may make others look late; none of these may be on time.
        let (_, again) = through(terms, 1).await;
        assert!(first.iter().filter(|at| again.contains(at)).count() * 10 >= first.len() * 8, "{first:?} {again:?}");
        for other in [through(terms, 2).await.1, through(Loss { seed: 8, ..terms }, 1).await.1] {
            assert!(first.iter().filter(|at| other.contains(at)).count() * 2 < first.len(), "{first:?} {other:?}");
        }
    }

    #[tokio::test]
    async fn a_reset_ends_both_directions_at_a_place_of_the_seed() {
        let terms = Loss { resets: 0.02, segment_bytes: SEGMENT as u64, seed: 3, ..Loss::default() };
        let mut places = Vec::new();
        for number in 1..=8 {
            let (sent, stood) = through(terms, number).await;
            assert!(stood.is_empty());
            assert_eq!(through(terms, number).await.0, sent);
            places.push(sent);
        }
        assert!(places.iter().any(|sent| *sent < 400 * SEGMENT) && places.iter().any(|sent| sent != &places[0]));
    }

    #[test]
    fn chances_are_between_0_and_1_and_segments_have_bytes() {
        assert_eq!(Loss::default().check(), Ok(()));
        for (wrong, told) in [
            (Loss { stalls: 1.5, ..Loss::default() }, "stalls: 1.5 is not between 0 and 1"),
            (Loss { resets: -0.1, ..Loss::default() }, "resets: -0.1 is not between 0 and 1"),
            (Loss { resets: f64::NAN, ..Loss::default() }, "resets: NaN is not between 0 and 1"),
            (Loss { segment_bytes: 0, ..Loss::default() }, "segment_bytes: is 0"),
        ] {
            assert_eq!(wrong.check(), Err(told.to_owned()));
        }
    }
}
