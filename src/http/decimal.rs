//! A number as decimal digits, without the formatting machinery.

/// The digits of a number.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    digits: [u8; Self::LENGTH_MAX],
    start: usize,
}

impl Decimal {
    /// The digits of the largest number.
    const LENGTH_MAX: usize = 20;

    /// Of this number.
    pub fn of(mut number: u64) -> Self {
        let (mut digits, mut start) = ([0; Self::LENGTH_MAX], Self::LENGTH_MAX);
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { digits, start };
            }
        }
    }

    /// As ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_the_formatting_machinery_has_it() {
        for number in [0, 1, 9, 10, 99, 100, 65_535, u64::MAX] {
            assert_eq!(Decimal::of(number).as_bytes(), number.to_string().as_bytes());
        }
    }
}
