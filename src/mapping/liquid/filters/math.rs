//! Filters of numbers. As in LiquidJS, a value that is not a number counts as 0, and a missing argument as NaN.

use super::super::val::Val;
use super::args::{Named, arg};

pub(super) const ALL: &[Named] = &[
    ("abs", |value, _, _| Ok(Val::number(value.number_or_zero().abs()))),
    ("at_least", |value, args, _| {
        let numbers = args.iter().map(Val::number_or_zero);
        Ok(Val::number(numbers.fold(value.number_or_zero(), f64::max)))
    }),
    ("at_most", |value, args, _| {
        let numbers = args.iter().map(Val::number_or_zero);
        Ok(Val::number(numbers.fold(value.number_or_zero(), f64::min)))
    }),
    ("ceil", |value, _, _| Ok(Val::number(value.number_or_zero().ceil()))),
    ("divided_by", |value, args, _| {
        let quotient = value.number_or_zero() / operand(args);
        let is_whole = arg(args, 1).number_or_zero() != 0.0;
        Ok(Val::number(if is_whole { quotient.floor() } else { quotient }))
    }),
    ("floor", |value, _, _| Ok(Val::number(value.number_or_zero().floor()))),
    ("minus", |value, args, _| Ok(Val::number(value.number_or_zero() - operand(args)))),
    ("modulo", |value, args, _| {
        let divisor = operand(args);
        Ok(Val::number((value.number_or_zero() % divisor + divisor) % divisor))
    }),
    ("plus", |value, args, _| Ok(Val::number(value.number_or_zero() + operand(args)))),
    ("round", |value, args, _| {
        let scale = 10_f64.powf(arg(args, 0).number_or_zero());
        let scaled = value.number_or_zero() * scale * (1.0 + f64::EPSILON);
        Ok(Val::number(round(scaled) / scale))
    }),
    ("times", |value, args, _| Ok(Val::number(value.number_or_zero() * operand(args)))),
];

/// Returns the second number: NaN if the argument is missing, 0 if it is not a number.
fn operand(args: &[Val]) -> f64 {
    args.first().map_or(f64::NAN, Val::number_or_zero)
}

/// JavaScript's `Math.round`, which rounds halves up.
fn round(number: f64) -> f64 {
    let floor = number.floor();
    if number - floor >= 0.5 { floor + 1.0 } else { floor }
}
