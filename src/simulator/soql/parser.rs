//! SOQL's grammar: tokens to a statement of names, operators and literals.

use super::QueryError;
use super::tokens::{Kind, Token, unexpected};

/// A name and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) at: usize,
}

/// What stands at the right of a comparison, and where.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Literal {
    pub(crate) value: Constant,
    pub(crate) at: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Constant {
    Null,
    Flag(bool),
    Text(String),
    Number(f64),
    DateTime(i64),
    Date(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// A condition over names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    /// `IN` and `NOT IN` have any number of literals, the others one.
    Compare {
        field: Name,
        operator: Operator,
        literals: Vec<Literal>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) field: Name,
    pub(crate) descending: bool,
    pub(crate) nulls_last: bool,
}

/// A statement, not yet checked against an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Statement {
    /// `None` is `COUNT()`.
    pub(crate) fields: Option<Vec<Name>>,
    pub(crate) object: Name,
    pub(crate) condition: Option<Condition>,
    pub(crate) order: Vec<Order>,
    pub(crate) limit: Option<usize>,
}

/// Nested no deeper than this; the parser recurses.
const DEEPEST: usize = 100;

pub(crate) fn parse(soql: &str, tokens: &[Token]) -> Result<Statement, QueryError> {
    Parser { soql, tokens, next: 0, depth: 0 }.statement()
}

struct Parser<'a> {
    soql: &'a str,
    tokens: &'a [Token],
    next: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn statement(&mut self) -> Result<Statement, QueryError> {
        self.expect("SELECT")?;
        let fields = self.fields()?;
        self.expect("FROM")?;
        let object = self.name()?;
        let condition = if self.take("WHERE") { Some(self.conditions()?) } else { None };
        let mut order = Vec::new();
        if self.take("ORDER") {
            self.expect("BY")?;
            order.push(self.order()?);
            while self.take(",") {
                order.push(self.order()?);
            }
        }
        let limit = if self.take("LIMIT") { Some(self.count()?) } else { None };
        match self.peek() {
            Some(Token { kind: Kind::End, .. }) | None => {}
            Some(_) => return Err(self.refuse()),
        }
        if fields.is_none() && !order.is_empty() {
            return Err(QueryError::malformed("ORDER BY clause cannot be used with COUNT()"));
        }
        Ok(Statement { fields, object, condition, order, limit })
    }

    /// The field list, or `None` for `COUNT()`.
    fn fields(&mut self) -> Result<Option<Vec<Name>>, QueryError> {
        let second = self.tokens.get(self.next + 1).map(|token| token.text.as_str());
        if self.sees("COUNT") && second == Some("(") {
            self.next += 2;
            self.expect(")")?;
            return Ok(None);
        }
        let mut fields = vec![self.name()?];
        while self.take(",") {
            fields.push(self.name()?);
        }
        Ok(Some(fields))
    }

    /// Conditions joined by one connective. Salesforce wants parentheses where `AND` and `OR` meet.
    fn conditions(&mut self) -> Result<Condition, QueryError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.refuse());
        }
        let mut joined = vec![self.condition()?];
        let connective = ["AND", "OR"].into_iter().find(|connective| self.sees(connective));
        while connective.is_some_and(|connective| self.take(connective)) {
            joined.push(self.condition()?);
        }
        self.depth -= 1;
        Ok(match connective {
            Some("OR") => Condition::Any(joined),
            _ => Condition::All(joined),
        })
    }

    fn condition(&mut self) -> Result<Condition, QueryError> {
        if self.take("(") {
            let inner = self.conditions()?;
            self.expect(")")?;
            return Ok(inner);
        }
        // `NOT` in front of a condition is not understood.
        if self.sees("NOT") {
            return Err(self.refuse());
        }
        let field = self.name()?;
        let operator = self.operator()?;
        let literals = if matches!(operator, Operator::In | Operator::NotIn) {
            self.expect("(")?;
            let mut literals = vec![self.literal()?];
            while self.take(",") {
                literals.push(self.literal()?);
            }
            self.expect(")")?;
            literals
        } else {
            vec![self.literal()?]
        };
        Ok(Condition::Compare { field, operator, literals })
    }

    fn operator(&mut self) -> Result<Operator, QueryError> {
        if self.take("NOT") {
            self.expect("IN")?;
            return Ok(Operator::NotIn);
        }
        let operators = [
            ("=", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<>", Operator::NotEqual),
            ("<", Operator::Less),
            ("<=", Operator::LessOrEqual),
            (">", Operator::Greater),
            (">=", Operator::GreaterOrEqual),
            ("IN", Operator::In),
        ];
        let found = operators.into_iter().find(|(text, _)| self.take(text));
        found.map(|(_, operator)| operator).ok_or_else(|| self.refuse())
    }

    fn literal(&mut self) -> Result<Literal, QueryError> {
        let token = self.peek().ok_or_else(|| self.refuse())?;
        let value = match &token.kind {
            Kind::Text(text) => Constant::Text(text.clone()),
            Kind::Number(number) => Constant::Number(*number),
            Kind::DateTime(millis) => Constant::DateTime(*millis),
            Kind::Date(millis) => Constant::Date(*millis),
            Kind::Word if token.text.eq_ignore_ascii_case("null") => Constant::Null,
            Kind::Word if token.text.eq_ignore_ascii_case("true") => Constant::Flag(true),
            Kind::Word if token.text.eq_ignore_ascii_case("false") => Constant::Flag(false),
            _ => return Err(self.refuse()),
        };
        self.next += 1;
        Ok(Literal { value, at: token.at })
    }

    fn order(&mut self) -> Result<Order, QueryError> {
        let field = self.name()?;
        let descending = self.take("DESC");
        if !descending {
            self.take("ASC");
        }
        let mut nulls_last = false;
        if self.take("NULLS") {
            nulls_last = self.take("LAST");
            if !nulls_last {
                self.expect("FIRST")?;
            }
        }
        Ok(Order { field, descending, nulls_last })
    }

    fn count(&mut self) -> Result<usize, QueryError> {
        let count = self.peek().and_then(|token| token.text.parse().ok()).ok_or_else(|| self.refuse())?;
        self.next += 1;
        Ok(count)
    }

    fn name(&mut self) -> Result<Name, QueryError> {
        const RESERVED: [&str; 16] = [
            "SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "IN", "LIKE", "ORDER", "BY", "LIMIT", "GROUP", "HAVING",
            "NULL", "TRUE", "FALSE",
        ];
        let token = self.peek().filter(|token| token.kind == Kind::Word).ok_or_else(|| self.refuse())?;
        if RESERVED.iter().any(|word| token.text.eq_ignore_ascii_case(word)) {
            return Err(self.refuse());
        }
        self.next += 1;
        Ok(Name { text: token.text.clone(), at: token.at })
    }

    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next)
    }

    /// Whether the next token is this word or symbol.
    fn sees(&self, text: &str) -> bool {
        let plain = |token: &&Token| matches!(token.kind, Kind::Word | Kind::Symbol);
        self.peek().filter(plain).is_some_and(|token| token.text.eq_ignore_ascii_case(text))
    }

    fn take(&mut self, text: &str) -> bool {
        let seen = self.sees(text);
        self.next += usize::from(seen);
        seen
    }

    fn expect(&mut self, text: &str) -> Result<(), QueryError> {
        if self.take(text) { Ok(()) } else { Err(self.refuse()) }
    }

    fn refuse(&self) -> QueryError {
        let (at, text) = self.peek().map_or((0, "<EOF>"), |token| (token.at, token.text.as_str()));
        unexpected(self.soql, at, text)
    }
}
