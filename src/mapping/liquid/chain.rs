//! Reads expressions and their filters, with LiquidJS' grammar and its errors.

use super::expression::{Call, Chain, Operand, Operator, Term};
use super::filters;
use super::read::Reader;

impl Reader<'_> {
    /// Reads an expression and its filters.
    pub(super) fn chain(&mut self) -> Result<Chain, String> {
        let terms = self.terms()?;
        if terms.is_empty() {
            let problem = format!("invalid value expression: {}", self.rest());
            return self.error(&problem);
        }
        let mut filters = Vec::new();
        while let Some(call) = self.filter()? {
            // A filter that LiquidJS does not know leaves the value as it is.
            filters.extend(call);
        }
        Ok(Chain { terms, filters })
    }

    /// Reads an expression into postfix order. Operators of equal precedence associate to the right.
    fn terms(&mut self) -> Result<Vec<Term>, String> {
        let mut terms = Vec::new();
        let mut waiting: Vec<Operator> = Vec::new();
        while !self.is_end() {
            if let Some(operator) = self.operator() {
                let binds_tighter =
                    |above: &mut Operator| above.precedence() > operator.precedence();
                while let Some(above) = waiting.pop_if(binds_tighter) {
                    terms.push(Term::Operator(above));
                }
                waiting.push(operator);
            } else if let Some(operand) = self.value()? {
                terms.push(Term::Operand(operand));
            } else {
                break;
            }
        }
        terms.extend(waiting.into_iter().rev().map(Term::Operator));
        Ok(terms)
    }

    fn operator(&mut self) -> Option<Operator> {
        self.skip_blank();
        let (word, operator) = Operator::ALL.iter().find(|(word, _)| self.is_at(word))?;
        self.at += word.len();
        Some(*operator)
    }

    /// Reads the next filter; `Some(None)` if its name is unknown or disabled.
    fn filter(&mut self) -> Result<Option<Option<Call>>, String> {
        self.skip_blank();
        if self.is_end() {
            return Ok(None);
        }
        let is_pipe = self.peek(0) == Some('|');
        self.at += 1;
        if !is_pipe {
            return self.error("expected \"|\" before filter");
        }
        let name = self.word();
        if name.is_empty() {
            return if self.is_end() { Ok(None) } else { self.error("expected filter name") };
        }
        let mut args = Vec::new();
        self.skip_blank();
        if self.peek(0) == Some(':') {
            self.arguments(&mut args)?;
        } else if self.peek(0) != Some('|') && !self.is_end() {
            return self.error("expected \":\" after filter name");
        }
        if filters::DISABLED.contains(&name.as_str()) {
            self.disabled.get_or_insert(name);
            return Ok(Some(None));
        }
        Ok(Some(filters::find(&name).map(|filter| Call { filter, args })))
    }

    fn arguments(
        &mut self,
        args: &mut Vec<(Option<String>, Option<Operand>)>,
    ) -> Result<(), String> {
        loop {
            self.at += 1;
            self.skip_blank();
            let begin = self.at;
            if let Some(value) = self.value()? {
                let key = self.text.slice(begin, self.at);
                self.skip_blank();
                if self.takes(':') {
                    args.push((Some(key), self.value()?));
                } else {
                    args.push((None, Some(value)));
                }
            }
            self.skip_blank();
            match self.peek(0) {
                Some(',') => {}
                Some('|') => return Ok(()),
                _ if self.is_end() => return Ok(()),
                _ => {
                    let problem = format!("unexpected character {}", self.rest());
                    return self.error(&problem);
                }
            }
        }
    }
}
