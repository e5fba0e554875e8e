use super::*;
use crate::simulator::columns::columns;
use crate::simulator::objects;

fn check(soql: &str) -> Result<Query, QueryError> {
    let object = objects::all().remove(0);
    let statement = parse(soql)?;
    resolve(soql, &statement, &object, columns(&object))
}

#[test]
fn what_a_client_needs_is_understood() {
    let statements = [
        "SELECT Id, SystemModstamp FROM Case",
        "select id from case where subject = 'It\\'s' limit 5",
        "SELECT COUNT() FROM Case WHERE IsDeleted = true",
        "SELECT Id FROM Case WHERE SystemModstamp >= 2026-01-01T00:00:00Z AND SystemModstamp < 2026-01-01T01:00:00.000+01:00",
        "SELECT Id FROM Case WHERE (Status = 'New' OR Status != null) AND (ClosedDate > 2026-01-01T00:00:00.000Z)",
        "SELECT Id FROM Case WHERE Id NOT IN ('5008d0000000011', '5008d0000000011AAA') ORDER BY SystemModstamp DESC NULLS LAST, Id",
    ];
    for statement in statements {
        assert!(check(statement).is_ok(), "{statement}: {:?}", check(statement));
    }
}

#[test]
fn everything_else_is_refused_with_the_place_and_the_word() {
    let unexpected = |token: &str| format!("unexpected token: '{token}'");
    let cases = [
        ("", "MALFORMED_QUERY", 1, unexpected("<EOF>")),
        ("DELETE FROM Case", "MALFORMED_QUERY", 1, unexpected("DELETE")),
        ("SELECT FROM Case", "MALFORMED_QUERY", 8, unexpected("FROM")),
        ("SELECT Id, FROM Case", "MALFORMED_QUERY", 12, unexpected("FROM")),
        ("SELECT Id FROM Case WHERE", "MALFORMED_QUERY", 26, unexpected("<EOF>")),
        ("SELECT Id FROM Case WHERE Subject LIKE 'a%'", "MALFORMED_QUERY", 35, unexpected("LIKE")),
        ("SELECT Id FROM Case WHERE NOT Subject = 'a'", "MALFORMED_QUERY", 27, unexpected("NOT")),
        ("SELECT Id FROM Case WHERE IsClosed = true AND IsEscalated = true OR Type = 'a'", "MALFORMED_QUERY", 66, unexpected("OR")),
        ("SELECT Id FROM Case GROUP BY Id", "MALFORMED_QUERY", 21, unexpected("GROUP")),
        ("SELECT Id FROM Case LIMIT 5 OFFSET 5", "MALFORMED_QUERY", 29, unexpected("OFFSET")),
        ("SELECT Id FROM Case LIMIT -1", "MALFORMED_QUERY", 27, unexpected("-1")),
        ("SELECT Id FROM Case WHERE CreatedDate > 2026-01-01T00:00:00", "MALFORMED_QUERY", 41, unexpected("2026-01-01T00:00:00")),
        ("SELECT Id FROM Case; DROP", "MALFORMED_QUERY", 20, unexpected(";")),
        ("SELECT COUNT(Id) FROM Case", "MALFORMED_QUERY", 14, unexpected("Id")),
        ("SELECT Id, id FROM Case", "MALFORMED_QUERY", 12, "duplicate field selected: Id".to_owned()),
        ("SELECT Id FROM Case ORDER BY Description", "MALFORMED_QUERY", 30, "field 'Description' can not be sorted in a query call".to_owned()),
        ("SELECT Id FROM Case WHERE Description = 'a'", "INVALID_FIELD", 27, "field 'Description' can not be filtered in a query call".to_owned()),
        (
            "SELECT Id FROM Case WHERE SystemModstamp > '2026-01-01T00:00:00Z'",
            "INVALID_FIELD",
            44,
            "value of filter criterion for field 'SystemModstamp' must be of type dateTime and should not be enclosed in quotes".to_owned(),
        ),
        ("SELECT Id FROM Case WHERE Id = 'abc'", "INVALID_QUERY_FILTER_OPERATOR", 32, "invalid ID field: abc".to_owned()),
    ];
    for (statement, code, column, message) in cases {
        let error = check(statement).expect_err(statement);
        assert_eq!(error.code, code, "{statement}");
        let expected = format!("\n{statement}\n{}^\nERROR at Row:1:Column:{column}\n{message}", " ".repeat(column - 1));
        assert_eq!(error.message, expected);
    }
    let error = check("SELECT Id,\n  Foo FROM Case").expect_err("no such column");
    assert!(
        error
            .message
            .starts_with("\n  Foo FROM Case\n  ^\nERROR at Row:2:Column:3\nNo such column 'Foo' on entity 'Case'. If ")
    );
    assert_eq!(
        check(&format!("SELECT Id FROM Case WHERE {}", "(".repeat(5_000))).expect_err("deep").code,
        "MALFORMED_QUERY"
    );
    assert!(
        check("SELECT Owner.Name FROM Case")
            .expect_err("a relationship")
            .message
            .contains("Didn't understand relationship 'Owner'")
    );
    let long = format!("SELECT Id FROM Case WHERE Subject = '{}'", "a".repeat(LONGEST));
    assert_eq!(check(&long).expect_err("long").message, "SOQL statements cannot be longer than 100000 characters.");
}
