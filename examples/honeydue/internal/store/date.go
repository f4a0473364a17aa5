package store

import (
	"database/sql/driver"
	"fmt"
	"time"
)

// Date is a calendar day without a time zone; JSON and SQL see `2026-04-13`.
type Date struct {
	day time.Time // midnight, UTC
}

// DateOf returns the day of a moment in UTC.
func DateOf(moment time.Time) Date {
	return Date{moment.UTC().Truncate(24 * time.Hour)}
}

// ParseDate reads `2026-04-13`.
func ParseDate(text string) (Date, error) {
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return Date{}, fmt.Errorf("`%s` is not a day such as 2026-04-13", text)
	}
	return Date{day}, nil
}

// AddDays returns the day that many days later.
func (d Date) AddDays(days int) Date {
	return Date{d.day.AddDate(0, 0, days)}
}

// String returns `2026-04-13`.
func (d Date) String() string {
	return d.day.Format(time.DateOnly)
}

// MarshalText writes what String returns.
func (d Date) MarshalText() ([]byte, error) {
	return []byte(d.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (d *Date) UnmarshalText(text []byte) error {
	parsed, err := ParseDate(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// Value is how database drivers write a date.
func (d Date) Value() (driver.Value, error) {
	return d.String(), nil
}

// Scan is how database drivers read one.
func (d *Date) Scan(source any) error {
	switch value := source.(type) {
	case time.Time:
		*d = Date{value}
		return nil
	case string:
		return d.UnmarshalText([]byte(value))
	default:
		return fmt.Errorf("a date came as %T", source)
	}
}
