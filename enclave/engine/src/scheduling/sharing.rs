//! Divides the rows of a step among owners.

use std::{collections::HashMap, num::NonZeroU8};

use super::queue::weighted;
use crate::owner::Owner;

/// Prompt tokens in one step while nobody waits for a next token: enough for the processor to be the limit.
pub(super) const PROMPT_ROWS: usize = 128;
/// Prompt tokens in one step beside answers. Answers, and newcomers in the middle of a step, wait for the
/// step to end.
const PROMPT_ROWS_BESIDE_ANSWERS: usize = 16;
/// Prompt tokens in one step beside answers for owners with credit: a short question is read at once.
const PROMPT_ROWS_IN_A_HURRY: usize = 64;
/// Prompt tokens that an owner without recent rows may have read before others, divided among its sequences.
/// Its recent rows for its share, answers included, are subtracted.
const CREDIT: usize = 128;

/// An owner's claims beside the others'.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) share: NonZeroU8,
    /// Its recent rows.
    pub(super) recent: usize,
    /// Sequences that it has.
    pub(super) sequences: usize,
}

pub(super) type Claims = HashMap<Owner, Claim>;

/// How many rows an owner may still have before others.
pub(super) fn credit(claims: &Claims, owner: Owner) -> usize {
    claims.get(&owner).map_or(0, |claim| {
        let recent = claim.recent / usize::from(claim.share.get());
        (CREDIT / claim.sequences.max(1)).saturating_sub(recent)
    })
}

/// Number of prompt rows of a step, given the rows that each sequence wants. If only some owners have credit,
/// only their rows count, so that an owner with credit never waits for one without. Beside answers, the
/// number is small.
pub(super) fn budget(answering: bool, wanted: &[(Owner, usize)], claims: &Claims) -> usize {
    let mut by_owner: HashMap<Owner, usize> = HashMap::new();
    wanted.iter().for_each(|(owner, rows)| *by_owner.entry(*owner).or_default() += rows);
    let credited: usize = by_owner.iter().map(|(owner, rows)| credit(claims, *owner).min(*rows)).sum();
    let everybody = by_owner.keys().all(|owner| credit(claims, *owner) > 0);
    match (answering, credited) {
        (true, 0) => PROMPT_ROWS_BESIDE_ANSWERS,
        (true, _) => credited.min(PROMPT_ROWS_IN_A_HURRY),
        (false, 1..) if !everybody => credited,
        (false, _) => PROMPT_ROWS,
    }
}

/// Divides `budget` among sequences, given the rows that each wants. Each row goes to the owner with the
/// fewest rows for its share, recent ones included, and there to the sequence with the fewest; among equals,
/// to the first.
pub(super) fn shares(budget: usize, wanted: &[(Owner, usize)], claims: &Claims) -> Vec<usize> {
    let mut shares = vec![0; wanted.len()];
    let mut of_owner = claims.clone();
    for _ in 0..budget {
        let hungry = wanted.iter().zip(&mut shares).filter(|((_, wanted), share)| **share < *wanted);
        let has = |owner: &Owner| of_owner.get(owner).map_or(0, |had| weighted(had.recent, had.share));
        let next = hungry.min_by_key(|((owner, _), share)| (has(owner), **share));
        let Some(((owner, _), share)) = next else { break };
        *share += 1;
        if let Some(claim) = of_owner.get_mut(owner) {
            claim.recent += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Owner = Owner([1; 32]);
    const B: Owner = Owner([2; 32]);

    /// Owners with these shares, rows lately, and sequences.
    fn claims(of: &[(Owner, u8, usize, usize)]) -> Claims {
        of.iter()
            .map(|(owner, share, recent, sequences)| {
                let share = NonZeroU8::new(*share).unwrap();
                (*owner, Claim { share, recent: *recent, sequences: *sequences })
            })
            .collect()
    }

    #[test]
    fn prompt_rows_are_shared_between_owners_and_then_between_their_sequences() {
        let both = claims(&[(A, 1, 0, 3), (B, 1, 0, 1)]);
        let shares = |budget, wanted: &[(Owner, usize)]| shares(budget, wanted, &both);
        // Three long prompts of one owner get together what one of another gets.
        assert_eq!(shares(12, &[(A, 99), (A, 99), (A, 99), (B, 99)]), [2, 2, 2, 6]);
        // What one does not want is for the others.
        assert_eq!(shares(12, &[(A, 99), (B, 2)]), [10, 2]);
        assert_eq!(shares(12, &[(A, 1), (A, 99), (B, 99)]), [1, 5, 6]);
        assert_eq!(shares(12, &[(A, 3), (B, 4)]), [3, 4]);
        assert_eq!(shares(3, &[(A, 9), (B, 9)]), [2, 1]);
        assert_eq!(shares(12, &[]), [0; 0]);
    }

    #[test]
    fn who_has_a_larger_share_gets_as_many_times_the_rows() {
        let both = claims(&[(A, 1, 0, 1), (B, 3, 0, 1)]);
        assert_eq!(shares(40, &[(A, 99), (B, 99)], &both), [10, 30]);
        let later = claims(&[(A, 1, 10, 1), (B, 3, 30, 1)]);
        assert_eq!(shares(40, &[(A, 99), (B, 99)], &later), [10, 30]);
        assert_eq!(credit(&later, A), CREDIT - 10);
        assert_eq!(credit(&later, B), CREDIT - 10);
    }

    #[test]
    fn who_had_little_lately_goes_first_until_it_had_as_much() {
        let both = claims(&[(A, 1, 20, 1), (B, 1, 10, 1)]);
        assert_eq!(shares(8, &[(A, 99), (B, 99)], &both), [0, 8]);
        assert_eq!(shares(20, &[(A, 99), (B, 99)], &both), [5, 15]);
        assert_eq!(shares(8, &[(A, 99), (B, 3)], &both), [5, 3]);
    }

    #[test]
    fn who_asks_for_much_at_once_has_less_credit() {
        let both = claims(&[(A, 1, 20, 4), (B, 1, 20, 1)]);
        assert_eq!(credit(&both, A), CREDIT / 4 - 20);
        assert_eq!(credit(&both, B), CREDIT - 20);
        let many = claims(&[(A, 1, 20, 8)]);
        assert_eq!(credit(&many, A), 0);
    }

    const C: Owner = Owner([3; 32]);

    #[test]
    fn only_credit_makes_a_step_beside_answers_longer() {
        let all = claims(&[(A, 1, CREDIT + 5, 1), (B, 1, CREDIT - 30, 1), (C, 1, 0, 1)]);
        let budget = |wanted: &[(Owner, usize)]| budget(true, wanted, &all);
        assert_eq!(budget(&[(A, 999)]), PROMPT_ROWS_BESIDE_ANSWERS);
        assert_eq!(budget(&[(A, 999), (B, 2)]), 2);
        assert_eq!(budget(&[(A, 999), (B, 20)]), 20);
        assert_eq!(budget(&[(A, 999), (B, 25), (B, 25)]), 30);
        assert_eq!(budget(&[(B, 999), (C, 999)]), PROMPT_ROWS_IN_A_HURRY);
    }

    #[test]
    fn without_answers_only_a_newcomer_makes_a_step_shorter() {
        let all = claims(&[(A, 1, CREDIT, 1), (B, 1, 0, 1), (C, 1, 0, 1)]);
        let budget = |wanted: &[(Owner, usize)]| budget(false, wanted, &all);
        assert_eq!(budget(&[(A, 999)]), PROMPT_ROWS);
        assert_eq!(budget(&[(B, 12)]), PROMPT_ROWS);
        assert_eq!(budget(&[(A, 999), (B, 12)]), 12);
        assert_eq!(budget(&[(B, 12), (C, 3)]), PROMPT_ROWS);
    }
}
