//! Numbers: digits, bounds, and multiples.

use serde_json::Number;

use super::SchemaError;
use super::grammar::{Builder, StateId};
use crate::scratch::{Scratch, ScratchText};

/// Most digits of an integer without bounds: what every reader of JSON keeps exactly.
const DIGITS: usize = 15;
/// The largest number of so many digits.
const LARGEST: i128 = 999_999_999_999_999;
/// Most digits of a bound: those of 64 bits.
const BOUND_DIGITS: u32 = 20;
/// Digits of a fraction.
const FRACTION: usize = 17;
/// Largest divisor.
const MAX_DIVISOR: u64 = 64;
/// Most multiples that are listed one by one.
const MAX_MULTIPLES: i128 = 1024;

/// What the keywords of a number say.
#[derive(Default)]
pub(super) struct Bounds<'a> {
    pub(super) minimum: Option<&'a Number>,
    pub(super) exclusive_minimum: Option<&'a Number>,
    pub(super) maximum: Option<&'a Number>,
    pub(super) exclusive_maximum: Option<&'a Number>,
    pub(super) multiple_of: Option<&'a Number>,
}

const TOO_FAR: SchemaError = SchemaError::Value("minimum", "no more than the maximum");
const BOUND: SchemaError = SchemaError::Value(
    "minimum",
    "as every bound a number of at most 20 digits before the point and 17 after it",
);
const DIVISOR: SchemaError = SchemaError::Value(
    "multipleOf",
    "a whole number from 1 to 64, or 0.1, 0.01 and so on of a number without bounds",
);

impl Bounds<'_> {
    fn are_none(&self) -> bool {
        let Self { minimum, exclusive_minimum, maximum, exclusive_maximum, multiple_of: _ } = self;
        [minimum, exclusive_minimum, maximum, exclusive_maximum].iter().all(|bound| bound.is_none())
    }

    /// An integer within these bounds, and then `next`; `unbounded` is the rule of one without any.
    pub(super) fn integer(
        &self,
        builder: &mut Builder,
        unbounded: StateId,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        let divisor = self.multiple_of.map(divisor).transpose()?;
        if self.are_none() {
            return match divisor {
                None | Some(1) => builder.call(unbounded, next),
                Some(divisor) => multiples(builder, divisor, next),
            };
        }
        let (low, high) = self.whole()?;
        match divisor {
            None | Some(1) => integers(builder, low, high, next),
            Some(divisor) => {
                let divisor = i128::from(divisor);
                let first = low.div_euclid(divisor) + i128::from(low.rem_euclid(divisor) != 0);
                let last = high.div_euclid(divisor);
                if first > last {
                    return Err(SchemaError::Value("multipleOf", "a multiple within the bounds"));
                }
                if last - first >= MAX_MULTIPLES {
                    return Err(SchemaError::Value(
                        "multipleOf",
                        "no more than 1024 multiples within the bounds",
                    ));
                }
                let text = |factor: i128| {
                    let text = ScratchText::of(&(factor * divisor));
                    Scratch::from(text.as_bytes())
                };
                let mut texts: Vec<Scratch<u8>> = (first..=last).map(text).collect();
                builder.literals(&mut texts, next)
            }
        }
    }

    /// The least and the largest integer.
    fn whole(&self) -> Result<(i128, i128), SchemaError> {
        let bound = |number: Option<&Number>, up: bool, beyond: i128| -> Result<Option<i128>, SchemaError> {
            let Some(decimal) = number.map(Decimal::new).transpose()? else { return Ok(None) };
            let whole = decimal.whole()?;
            Ok(Some(match (decimal.has_fraction(), up) {
                (false, _) => whole + beyond,
                // Of a bound between two integers, the next one inside.
                (true, true) => whole + i128::from(!decimal.negative),
                (true, false) => whole - i128::from(decimal.negative),
            }))
        };
        let low = bound(self.minimum, true, 0)?.max(bound(self.exclusive_minimum, true, 1)?);
        let high = match (bound(self.maximum, false, 0)?, bound(self.exclusive_maximum, false, -1)?) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // Where one side is open, it is as far as numbers without bounds go.
        let low = low.unwrap_or_else(|| high.map_or(-LARGEST, |high| high.min(0) - LARGEST));
        let high = high.unwrap_or_else(|| low.max(0) + LARGEST);
        if low > high { Err(TOO_FAR) } else { Ok((low, high)) }
    }

    /// A number within these bounds, and then `next`; `unbounded` is the rule of one without any.
    pub(super) fn number(
        &self,
        builder: &mut Builder,
        unbounded: StateId,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        if let Some(multiple) = self.multiple_of {
            if divisor(multiple).is_ok() {
                // Whole numbers, and so integers.
                return self.integer(builder, unbounded, next);
            }
            let digits = Decimal::new(multiple)?.power_of_ten().ok_or(DIVISOR)?;
            if !self.are_none() {
                return Err(DIVISOR);
            }
            let end = digits_up_to(builder, digits - 1, next)?;
            let first = builder.ranges(&[(b'0', b'9', end)])?;
            let point = builder.byte(b'.', first)?;
            let end = builder.split(vec![next, point])?;
            return integer(builder, end);
        }
        if self.are_none() {
            return builder.call(unbounded, next);
        }
        let low = tighter(self.minimum, self.exclusive_minimum, true)?;
        let high = tighter(self.maximum, self.exclusive_maximum, false)?;
        let mut states = Vec::new();
        // Below zero a magnitude has the bounds of the other side.
        if low.as_ref().is_none_or(|low| low.decimal.negative) {
            let nearest = high.as_ref().filter(|high| high.decimal.negative);
            let zero =
                Limit::zero(high.as_ref().is_some_and(|high| high.decimal.is_zero() && high.exclusive));
            let magnitude = magnitude(builder, nearest.unwrap_or(&zero), low.as_ref(), next)?;
            if let Some(magnitude) = magnitude {
                states.push(builder.byte(b'-', magnitude)?);
            }
        }
        if high.as_ref().is_none_or(|high| !high.decimal.negative) {
            let zero = Limit::zero(false);
            let least = low.as_ref().filter(|low| !low.decimal.negative).unwrap_or(&zero);
            states.extend(magnitude(builder, least, high.as_ref(), next)?);
        }
        if states.is_empty() { Err(TOO_FAR) } else { builder.split(states) }
    }
}

/// A bound, and whether it is itself outside.
struct Limit {
    decimal: Decimal,
    exclusive: bool,
}

impl Limit {
    fn zero(exclusive: bool) -> Self {
        let decimal = Decimal { negative: false, whole: Scratch::new(), fraction: Scratch::new() };
        Self { decimal, exclusive }
    }
}

/// The one of two bounds that leaves less.
fn tighter(
    inclusive: Option<&Number>,
    exclusive: Option<&Number>,
    is_least: bool,
) -> Result<Option<Limit>, SchemaError> {
    let limit = |number: Option<&Number>, exclusive| {
        number.map(|number| Ok(Limit { decimal: Decimal::new(number)?, exclusive })).transpose()
    };
    match (limit(inclusive, false)?, limit(exclusive, true)?) {
        (Some(a), Some(b)) => {
            let order = a.decimal.compare(&b.decimal);
            let order = if is_least { order } else { order.reverse() };
            Ok(Some(if order.is_gt() { a } else { b }))
        }
        (a, b) => Ok(a.or(b)),
    }
}

/// A number's digits.
struct Decimal {
    negative: bool,
    /// Before the point, without zeros in front.
    whole: Scratch<u8>,
    /// After the point, without zeros at the end.
    fraction: Scratch<u8>,
}

impl Decimal {
    fn new(number: &Number) -> Result<Self, SchemaError> {
        let text = ScratchText::of(number);
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text.as_str()),
        };
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i32 = exponent.parse().map_err(|_| BOUND)?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let mut all: Scratch<u8> = whole.bytes().chain(fraction.bytes()).collect();
        // Where the point is, counted from the first digit.
        let mut point = i32::try_from(whole.len()).map_err(|_| BOUND)? + exponent;
        if point.unsigned_abs() > 2 * BOUND_DIGITS {
            return Err(BOUND);
        }
        while point < 0 {
            all.insert(0, b'0');
            point += 1;
        }
        let point = usize::try_from(point).map_err(|_| BOUND)?;
        while all.len() < point {
            all.push(b'0');
        }
        let (whole, fraction) = all.split_at(point);
        let zeros = whole.iter().take_while(|digit| **digit == b'0').count();
        let end = fraction.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
        let (whole, fraction) = (whole.get(zeros..), fraction.get(..end));
        let decimal = Self {
            negative,
            whole: Scratch::from(whole.unwrap_or_default()),
            fraction: Scratch::from(fraction.unwrap_or_default()),
        };
        let negative = negative && !decimal.is_zero();
        let fits = decimal.whole.len() <= BOUND_DIGITS as usize && decimal.fraction.len() <= FRACTION;
        if fits { Ok(Self { negative, ..decimal }) } else { Err(BOUND) }
    }

    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    fn has_fraction(&self) -> bool {
        !self.fraction.is_empty()
    }

    /// The part before the point.
    fn whole(&self) -> Result<i128, SchemaError> {
        let digits = self.whole.iter().map(|digit| i128::from(digit - b'0'));
        let magnitude = digits.fold(0, |number: i128, digit| number * 10 + digit);
        Ok(if self.negative { -magnitude } else { magnitude })
    }

    /// How many digits after the point a number has that is a multiple of this one: 2 for 0.01.
    fn power_of_ten(&self) -> Option<usize> {
        let (last, zeros) = self.fraction.split_last()?;
        let is_power = !self.negative && self.whole.is_empty() && *last == b'1';
        (is_power && zeros.iter().all(|digit| *digit == b'0')).then_some(self.fraction.len())
    }

    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        let magnitude = (self.whole.len(), &*self.whole, &*self.fraction).cmp(&(
            other.whole.len(),
            &*other.whole,
            &*other.fraction,
        ));
        match (self.negative, other.negative) {
            (false, false) => magnitude,
            (true, true) => magnitude.reverse(),
            (negative, _) => {
                if negative {
                    std::cmp::Ordering::Less
                } else {
                    std::cmp::Ordering::Greater
                }
            }
        }
    }
}

/// A number without a sign from `low` to `high`, or as far as numbers go; none where there is none.
fn magnitude(
    builder: &mut Builder,
    low: &Limit,
    high: Option<&Limit>,
    next: StateId,
) -> Result<Option<StateId>, SchemaError> {
    let far;
    let high = match high {
        Some(high) => high,
        None => {
            let end = Scratch::from((low.decimal.whole()?.abs() + LARGEST + 1).to_string().as_bytes());
            far = Limit {
                decimal: Decimal { negative: false, whole: end, fraction: Scratch::new() },
                exclusive: true,
            };
            &far
        }
    };
    let (first, last) = (low.decimal.whole()?.abs(), high.decimal.whole()?.abs());
    let mut fractions = Fractions::new(builder, next)?;
    let from = Edge { rest: &low.decimal.fraction, exclusive: low.exclusive };
    let to = Edge { rest: &high.decimal.fraction, exclusive: high.exclusive };
    let mut states = Vec::new();
    let mut ends = Vec::new();
    if first == last {
        ends.push((first, fractions.within(builder, Some(from), Some(to), 0)?));
    } else if first < last {
        ends.push((first, fractions.within(builder, Some(from), None, 0)?));
        ends.push((last, fractions.within(builder, None, Some(to), 0)?));
        if first + 1 < last {
            let any = fractions.within(builder, None, None, 0)?.unwrap_or(next);
            states.push(magnitudes(builder, first + 1, last - 1, any)?);
        }
    }
    for (number, fraction) in ends {
        if let Some(fraction) = fraction {
            states.push(magnitudes(builder, number, number, fraction)?);
        }
    }
    if states.is_empty() { Ok(None) } else { builder.split(states).map(Some) }
}

/// A bound on the digits after the point, as long as those before are the bound's own.
#[derive(Clone, Copy)]
struct Edge<'a> {
    /// Digits of the bound that are still to come.
    rest: &'a [u8],
    exclusive: bool,
}

/// Digits after the point.
struct Fractions {
    next: StateId,
    /// After so many digits, any further ones or none.
    free: Vec<StateId>,
}

impl Fractions {
    fn new(builder: &mut Builder, next: StateId) -> Result<Self, SchemaError> {
        let mut free = vec![next];
        for _ in 0..FRACTION {
            let after = free.last().copied().unwrap_or(next);
            let digit = builder.ranges(&[(b'0', b'9', after)])?;
            free.push(builder.split(vec![next, digit])?);
        }
        free.reverse();
        Ok(Self { next, free })
    }

    /// What may follow `read` digits: the end, or further digits (before the first of them the point). None
    /// where nothing may.
    fn within(
        &mut self,
        builder: &mut Builder,
        low: Option<Edge<'_>>,
        high: Option<Edge<'_>>,
        read: usize,
    ) -> Result<Option<StateId>, SchemaError> {
        // What has no digits left to be above is above, unless it must be more than equal.
        let low = low.filter(|low| low.exclusive || !low.rest.is_empty());
        if read > 0 && low.is_none() && high.is_none() {
            return Ok(self.free.get(read).copied());
        }
        let is_zero = |rest: &[u8]| rest.iter().all(|digit| *digit == b'0');
        let may_end = low.is_none_or(|low| !low.exclusive && is_zero(low.rest))
            && high.is_none_or(|high| !high.exclusive || !is_zero(high.rest));
        let mut options = if may_end { vec![self.next] } else { Vec::new() };
        let mut ranges: Scratch<(u8, u8, StateId)> = Scratch::new();
        for digit in (b'0'..=b'9').take(if read < FRACTION { 10 } else { 0 }) {
            let at = |edge: Edge<'_>| edge.rest.first().copied().unwrap_or(b'0');
            if low.is_some_and(|low| digit < at(low)) || high.is_some_and(|high| digit > at(high)) {
                continue;
            }
            let low = low.filter(|low| digit == at(*low));
            let low = low.map(|low| Edge { rest: low.rest.get(1..).unwrap_or_default(), ..low });
            let high = high.filter(|high| digit == at(*high));
            let high = high.map(|high| Edge { rest: high.rest.get(1..).unwrap_or_default(), ..high });
            if let Some(state) = self.within(builder, low, high, read + 1)? {
                ranges.push((digit, digit, state));
            }
        }
        if !ranges.is_empty() {
            let digits = builder.ranges(&ranges)?;
            options.push(if read == 0 { builder.byte(b'.', digits)? } else { digits });
        }
        if options.is_empty() { Ok(None) } else { builder.split(options).map(Some) }
    }
}

fn divisor(number: &Number) -> Result<u64, SchemaError> {
    let whole = match number.as_u64() {
        Some(whole) => whole,
        None => {
            let decimal = Decimal::new(number)?;
            let whole = u64::try_from(decimal.whole()?).ok().filter(|_| !decimal.has_fraction());
            whole.ok_or(DIVISOR)?
        }
    };
    if (1..=MAX_DIVISOR).contains(&whole) { Ok(whole) } else { Err(DIVISOR) }
}

/// An integer that a number divides: for each remainder that digits may leave, a state.
fn multiples(builder: &mut Builder, divisor: u64, next: StateId) -> Result<StateId, SchemaError> {
    let size = usize::try_from(divisor).unwrap_or(1);
    // With no digit left, only what leaves nothing may end.
    let mut after: Vec<Option<StateId>> = (0..size).map(|rest| (rest == 0).then_some(next)).collect();
    let digits = |builder: &mut Builder, after: &[Option<StateId>], rest: usize, from: u8| {
        let states = (from..=9).filter_map(|digit| {
            let state = (*after.get((rest * 10 + usize::from(digit)) % size)?)?;
            Some((b'0' + digit, b'0' + digit, state))
        });
        let ranges: Scratch<_> = states.collect();
        if ranges.is_empty() { Ok(None) } else { builder.ranges(&ranges).map(Some) }
    };
    for _ in 1..DIGITS {
        let mut before = Vec::with_capacity(size);
        for rest in 0..size {
            let more = digits(builder, &after, rest, 0)?;
            let options: Vec<_> = (rest == 0).then_some(next).into_iter().chain(more).collect();
            before.push(if options.is_empty() { None } else { Some(builder.split(options)?) });
        }
        after = before;
    }
    let zero = builder.byte(b'0', next)?;
    let some = digits(builder, &after, 0, 1)?;
    let positive = builder.split([zero].into_iter().chain(some).collect())?;
    let negative = some.map(|some| builder.byte(b'-', some)).transpose()?;
    builder.split([positive].into_iter().chain(negative).collect())
}

/// Up to `most` digits.
pub(super) fn digits_up_to(
    builder: &mut Builder,
    most: usize,
    next: StateId,
) -> Result<StateId, SchemaError> {
    let mut state = next;
    for _ in 0..most {
        let digit = builder.ranges(&[(b'0', b'9', state)])?;
        state = builder.split(vec![next, digit])?;
    }
    Ok(state)
}

/// An integer of at most 15 digits.
pub(super) fn integer(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let more = digits_up_to(builder, DIGITS - 1, next)?;
    let magnitude = [(b'0', b'0', next), (b'1', b'9', more)];
    let positive = builder.ranges(&magnitude)?;
    builder.ranges(&[magnitude[0], magnitude[1], (b'-', b'-', positive)])
}

/// A number whose magnitude every reader can hold.
pub(super) fn number(builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
    let last = builder.ranges(&[(b'0', b'9', next)])?;
    let last = builder.split(vec![next, last])?;
    let power = builder.ranges(&[(b'0', b'9', last)])?;
    let power = builder.ranges(&[(b'+', b'+', power), (b'-', b'-', power), (b'0', b'9', last)])?;
    let exponent = builder.ranges(&[(b'E', b'E', power), (b'e', b'e', power)])?;
    let end = builder.split(vec![next, exponent])?;
    let fraction = digits_up_to(builder, FRACTION - 1, end)?;
    let fraction = builder.ranges(&[(b'0', b'9', fraction)])?;
    let point = builder.byte(b'.', fraction)?;
    let end = builder.split(vec![end, point])?;
    integer(builder, end)
}

/// An integer from `least` to `most`.
fn integers(builder: &mut Builder, least: i128, most: i128, next: StateId) -> Result<StateId, SchemaError> {
    let mut states = Vec::new();
    if least < 0 {
        let magnitude = magnitudes(builder, (-most).max(1), -least, next)?;
        states.push(builder.byte(b'-', magnitude)?);
    }
    if most >= 0 {
        states.push(magnitudes(builder, least.max(0), most, next)?);
    }
    builder.split(states)
}

/// A number without a sign from `least` to `most`: for each number of digits a part.
fn magnitudes(builder: &mut Builder, least: i128, most: i128, next: StateId) -> Result<StateId, SchemaError> {
    let mut states = Vec::new();
    let mut start = 0;
    for length in 1..=BOUND_DIGITS + 2 {
        let end = 10_i128.pow(length) - 1;
        let (low, high) = (least.max(start), most.min(end));
        if low <= high {
            let (low, high) = (low.to_string(), high.to_string());
            states.push(between(builder, low.as_bytes(), high.as_bytes(), [true, true], next)?);
        }
        start = end + 1;
    }
    builder.split(states)
}

/// As many digits as the bounds have; a bound that an earlier digit settled is loose.
fn between(
    builder: &mut Builder,
    low: &[u8],
    high: &[u8],
    [low_tight, high_tight]: [bool; 2],
    next: StateId,
) -> Result<StateId, SchemaError> {
    let (Some((&low_digit, low)), Some((&high_digit, high))) = (low.split_first(), high.split_first()) else {
        return Ok(next);
    };
    let first = if low_tight { low_digit } else { b'0' };
    let last = if high_tight { high_digit } else { b'9' };
    if first == last {
        let rest = between(builder, low, high, [low_tight, high_tight], next)?;
        return builder.byte(first, rest);
    }
    let (mut from, mut to, mut ranges) = (first, last, Vec::new());
    if low_tight {
        ranges.push((first, first, between(builder, low, high, [true, false], next)?));
        from += 1;
    }
    if high_tight {
        ranges.push((last, last, between(builder, low, high, [false, true], next)?));
        to -= 1;
    }
    if from <= to {
        ranges.push((from, to, between(builder, low, high, [false, false], next)?));
    }
    builder.ranges(&ranges)
}

/// Two digits from `low` to `high`.
pub(super) fn two_digits(
    builder: &mut Builder,
    low: u8,
    high: u8,
    next: StateId,
) -> Result<StateId, SchemaError> {
    let text = |number: u8| [b'0' + number / 10, b'0' + number % 10];
    between(builder, &text(low), &text(high), [true, true], next)
}
