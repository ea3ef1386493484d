"""What an H100 80 GB answered: 336 values of its tensor cores, by class of behaviour.

FP8 products by torch._scaled_mm (torch 2.11, CUDA 13) with unit scales and float32 out, 16-bit ones by
torch.mm with float32 out. The classes: exponents that reach far apart, ordinary numbers, sums that cancel,
few numbers that are not zero; 64 products, which are two steps of the unit; and 512 with and without
promotion.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """One product.

    Attributes
    ----------
    arithmetic
        The preset that it is of, with operands of these `formats`.
    formats
        Names of the operands' formats.
    a_shape, b_shape
        (M, K) and (K, N).
    a, b, c
        Codes of the operands and of the float32 results, little-endian, in base64.
    """

    arithmetic: str
    formats: tuple[str, str]
    a_shape: tuple[int, int]
    b_shape: tuple[int, int]
    a: str
    b: str
    c: str

    @property
    def operands(self) -> tuple[NDArray[Any], NDArray[Any]]:
        kind = "<u2" if self.formats[0] in ("bfloat16", "half") else "u1"
        codes = (np.frombuffer(base64.b64decode(text), kind) for text in (self.a, self.b))
        a, b = codes
        return a.reshape(self.a_shape), b.reshape(self.b_shape)

    @property
    def answers(self) -> NDArray[Any]:
        return np.frombuffer(base64.b64decode(self.c), "<u4").reshape(self.a_shape[0], self.b_shape[1])


CASES = (
    Case(
        "hopper_fp8",
        ("e4m3", "e4m3"),
        (8, 64),
        (64, 8),
        a=(
            "Q4q9DZCgj2+NDYGm3WTOQD9kAo8EUYJMuxRA1YWGA6RLhx0Yh0FV0QcEPwRcHzyzsc2yw4oIh9Nh27OQNZQ3uRNsgWqBhaPK"
            "Hj4XgwSGCV+zFQVAYdiz2rkqmLaiIdGoOhEXDtNMnEAChdQ/x4hTduDQml64VDOCGeYZcBkE2IGSmTvSSOEdsNPYgcKp0jk9"
            "S2FeD8mwIURF3QEEQEzoowAa32PgLoWywA7Io1TwwAvhCNEI6IO34BPp9qJQgoIsNINsxOwT+VTygu6fSlGozMtD6LzaAxiB"
            "aQ7VKwmcz1bnpvNSDdocSSYiwII3FElVAl4WAgMkzUkDNApHZwmuJLeJNOfruoNeh1fUPFW/uJASskGqxFujMT0XztkwR0wm"
            "YVEvsoXCQhQWPkpOgcOFP0umSneKYREyNLDrPA2KZEQGh7ySBYOZF82zS8s90oMaxTOiOlSP8eliBElbjNG9wIAC2pLNJxwu"
            "K1qGAQDOAgSq6hTtRoipCSi4KI6gXdDQ7AG0xwHAOqENhYS3IatwvQWBCMEz0AirmI3f7VcDJdeRawFkWQvJyJhDQPmx9+0J"
            "BYZuTgsIBiTRojQRqZY+tYLB6ILLUJKE6aIDSWEr8GuH1XBQ64Wg7bkYDPENC3JvhC9W14sxLZIeoHRMg2w6JIK30eTYhIOo"
            "xLsDvQPklRE="
        ),
        b=(
            "q0UTWJlCEq8hGKKcaQC+idmrsK2axDwvAJ+toF6d7BuVDjPSsz9pu7EhAJ6T3YMqgSeRzBPMYhOD784jBh+kGeWKLIhHEq2G"
            "WALTTq8BhjQGj7XWgWFSQoyujYAiXYSMkwXOJAgwgi2wTaomuHKPW8PlggUA4z1E38vHG1MuX6BaPN4FATu53pXnOAgtEYWN"
            "OzEGk1cBMcmKdMkQmN+DuLAbIoOagcW4bUeUmlA4zYHEbri+LHOJSci71+LahkgMbYORoXMQy4sEBYQ00OCY2wPOm6y9kiIS"
            "1FvAkeWCKZgOEQ7cDrm5sAAJRQGR47sl11+aIWMsQTKnZTybA4ntk2MoEUgfqWuX1tGuy9VBvF9EYwOC2bAhpwo60QNCAYm9"
            "TEOhQge3g2ZFp9KNEKxAMoTD4gayyBjRSUTOCspWxtqyyDGsTB2Ag56SHtuqEY4loGGIhFzOiNiwDNJGBjJF19JD6pMTjsCE"
            "AKIpQpZd1pGJrhXetiEzaHipKoCMBQqmCVoXq9GXS+g0qI3mSbU5ZVIILrK7kIO836BYpZdHEYU1QFspSYMgrLLJA10JcEFl"
            "VrmHtfYhfNLwrQIxs4xhOgUHZBwzpQWrob1ZTUDita+DkAMRI4Qi6YY8x4jBaT/uqqktUc2t0V23OV+XEhKEKcKZKdKF7yaI"
            "hnLOAqhZIwI="
        ),
        c=(
            "AGgJRQCQhMYA0OfEAODkQQAY0kMArAVGACCVQgD4V0QAhFNHADwIxACAF8QAiIFEABAGRgBgaUYAUMvFAGQ6xgB0okUAOMLF"
            "AFR9xQBoi8QA3KnEAAATxAA4lUQATINGAOBURgBIDsYAgP5BAIgyRQD4aUYAeEvEAKTkxgDgV0UA4CPFAAA2xQCQTEUAVMhE"
            "AOgJwgAQisQAkBxFADDzRQA49kUAZIrGAADnQwAk30UAIONFAGDMxgDEt8MAhKXFAABFQgCoKsYA2B1FANSQxABchUUABEHG"
            "AHyIRQAwvkQAFHNFAHS7RgAYn8QAGI5FAKS0RgBMzEUAADXGAFBnxQ=="
        ),
    ),
    Case(
        "hopper_fp8",
        ("e4m3", "fp8"),
        (8, 64),
        (64, 8),
        a=(
            "vR6shKMzMzEuli44vrSmq7oysyYwuK+ztz8hLLE0OTMyKq0lMqmoMS2nRj68My2mKTctMbMJPTg6rKmdsbi0r0BAOr8+L6+4"
            "pTKxsbKWti+yvTG5OrC6Kzw0uTU5m7quuDGfQLKrl77BsrdJhJ23Hjo4vDy0tCy8Kpy6tTJCtao3PLgdqjkTLzs8sjqcrrIc"
            "IzlDpTivNTizPTi7sp8fM7uktbu0OqG6Gq67Lj48gDgzsrEuJrm4vY27qa67OTMyPZq9Fzg8rzjCBbm5JiuGQLq6hDe0tDao"
            "NjEYkrK8qqosuCk4uZQuviogtrYaLCy6hL66r6+5OBm7uTXFPDEyvK8lN56NMaEhsbkxMImqvTKysi85tC4yNKePtbE2FTid"
            "t6+5uTSgtzxCKgo7OasXtDi9Ha+sO68xvjixorLAtLg6uawtOawsqCuxvaw5Q7CyLL62MDqyscGYqq2opKhBNTejvK65vLUk"
            "wDeGDhK5krMnPDEcOaaqMS68sLq3ijesrUADtC88sBw0uyspnKowvrk6mq4gETOzIyk1uimtvLQlrTM6uUC0DKS9skG5tMG1"
            "iTW8N7g5KT0dvCM0krYvKzvBvqyUtCogNy88rbK8prU5FrlAJjSwqiarIzkrI74asiswt6+nsq8yM7cxua4zQKohozKiCCmy"
            "tBOnp0QwMUA="
        ),
        b=(
            "uTo+uzU6vDgyvjrAvD0/PL65Mzk8O705NL28vrC5sbUorzm3O72uvjW6vrA6P7tANzi5ssA8PLa6v7W+PD2qPT22srA8N7g7"
            "wMA5PKuuvLY6uTMvNqk9PLmwvD01v7E6tbirwLI+tj49OMA8uzm0OLo8Qbe2urs6vTM7uDu+MTW1tsA2Nj09vb2iPp+2ury9"
            "ujY7sEC3Or5AQDOqwD69tTtAtTU4Lj2/Pba9ub45OLY0M7UsNrWzvLs8PTm0OUFBND+5LbtBwDs7tDc0PTi8PbmsNrUtPDg0"
            "N7k/KTwxuz/AvLi6uyM2tT25OTg1O0A3Krg5urm9O7y1N7y+OiK4vUA5PcG0sK+4vRcpPDkZOTS6NsE0Nzy4PD0zvbuWIby9"
            "uzi5wK64PDw8Ozw5vEA+vrpCODY7u7q+uzm3wMG+tbW9u7dAP72kvzs0Nzy9Na08Pji8O8G5Oj45Pry+MrW2OTm4PcG+tL+v"
            "uby5tTW6PDo8uSe8tUC3uLw+MjG5vra1tTg5tLUvwTQ5uL8+rrCzQLs8N7u6OLc6vjC/vr3APry1OLWxtK47PME2Njq5MCw0"
            "LTo6Orc5PEG9s724OMI/Oja/QDE0tz2yPDi0sxY2vi1AvD86uT86Qb41OTk8NTMyPzq4Kjg5Mz0+PTs0Ojy9JK65ML26urYs"
            "Pzg+OMC5KDM="
        ),
        c=(
            "ALS6QABQS8AAzOLAAESYQAAoU8AAuHvBABhCQQAsJ0EAmMRAAERBQQAQ9b8AsEXAAOhgQQB0LEEAKEHBAEywQAB8scAAmNDA"
            "ADRHQQAULMAAmDNBAHxdQACgOj8AhEvBAOxBQQDgsD8AqDhAAPTPwAAkFUEAgC1BAChTwQBAUj8A+FHBADg/wACk+8AAJLnA"
            "AKhHwACA4sAAAHi9AByGwAAgaEEA4IE/ACQqwQCEGcEAPC3BAEiAwADA4MAAeKfAAAB8vwAosL8A4ATBAIBzvgCYE0AAwBS/"
            "AJAAQQAwpz8AYDlBAIhBQQDAuL8AyDBBAABEwAA01kAAXJnAAGjCPw=="
        ),
    ),
    Case(
        "hopper_fp8",
        ("fp8", "e4m3"),
        (8, 64),
        (64, 8),
        a=(
            "VDRUtlS2Ub5SNNa4zDpCwEc8P0NNO9g/2DFSMle5TjxQudAw0jtTQlXBWLVBN1Kz1L9RLNa7xLC6vcqyTrPHtdOq2MJYONG+"
            "1T/RP08yS7tYLEw9UTxTpVc60bJVt82xUixSNtE6VitWutK5zbdRNc41VjctuNG52L3Su8+31LXQPdO+1T/WuNc5VDzPvdi9"
            "JLjYOU41RTnPOtO4ULxYOk6+VLtYuta81jtMvdK21j1QwM49171WOdQxU7zWuVU3WTfCNtEwUDrVttO5VT7UvFGxUzvPPFY/"
            "1bzIM1SuUrfWvs46VDnOOlE8zkDTv0+4TL7JuD++0b5WNs41VbpNPtQ32CvIMkyw0DhNtdM10TrQr9Qy2MDSrMy91DfQt9c6"
            "y7dTvsy+TT7WuEY/1zTNMVa4UsDXPNQ4z74+tVUzzLNTukIxzzS/vM41VD9QNVM1TjpNvNI6yjnVO1W30K9Tt048UTy/MVI+"
            "UTnON1e4V7xUOb29UDjUM080VzRGv1Q1UUHMKUw5SzpOvsypVzdLN1M9z7VVP1c90jxZvFC+1z5EuVE5TsDYPFY20S9RQM3A"
            "2rpSuVS+1bNSPk6yUbpTvNWp2KxVNlI4yUBNNdc+TjlWO9U42D1SrFG00zPIuFQxN7nQuc88UzxUPFC6OL3WOk69yrg/qk04"
            "1DjWtdEzTzw="
        ),
        b=(
            "WmLZU17haem+OKy6qDo0KepRzWNq4mfqOYs9Lbk8rjvK5OlWNGhl17hBNbmpLjI5WHHn7VtP29e7GzOuvDc3vFvVXeHt4lpo"
            "MbA1MyIiPrZN6t3c3Fta3BK2Kaykm8Ky61ds1uvjWGmoubesrjEwuFxF0ulzYd1lODouubM1MilN01jccedh6KAzuCmvujOB"
            "ceBd6G/C7+qqQaiwrLOwOm5UcOlpY1o7L6U0Khu6Hb3U5UvhcXBoagm4KrK5Ozy6aOFQ5F7VYWG4ILCwOqQjss1lZmNiZ9Ni"
            "uDGyOLkYIqTo4dXfp8hq5LC8QKjBNLkuZrHqz+XPYeWnM7eroTghu2TkaG1p4OXgujIilrzCMz1pU2zy6eniYzstETO2uTK5"
            "0NtZZ+1n6eG3GjGtqzG2veFf3GFZXWpcPDe2m6WxOCfjZ+1qa1s/466+ub5Avqwyb+Tf1lXMaHE5LKW4qDMtNkzgZlLmW29y"
            "QrkhtTEZn7Jm6Whm2mjcYz24LTEwuK4658hWZOXq4dmMJpmuOS88pGdS8WDrWVXapyI5QSS0PS3d7ebt5F3o4qAinzs4PTe6"
            "52rvRURfUuAyrbM4Br6btKHj59Jd5GJbpzGzuzUgu5rOU2FO5FzPXjm/sg0xMKu45urcWWJs3tyoqrgnOcM9ErVq6enh0sJr"
            "PzIwsCozOrs="
        ),
        c=(
            "ADD6RQCYzEYApJjGAAz9RgBQR0YAQMfFALjpRgAQwcUA1I1GAKh6xgAAP0UAgCDEACgSRwAAk0YACAVGAIAxxgAYksUAqIRG"
            "ADzDRQBQIkYAFILHAAyexgAAAAAAgP7FAEirxgCwkkUAtHrGAJCDRAD4aUYAZLlFAPCDRQCo+sYA9BzGAABmQgAAIcUADDVG"
            "AEwlxwAcacYAWOnGAPBkRQCgL8QAzJjFADhjRgDUE0YAPAbGAFglRQCA10MAcKpGAJAoxQBAjEQA+M1GALC/xgAo4kYAkAVH"
            "AJCqRQAc0UYAwALGAIgFRgCcc8cAqA/FAGxrRgAAPkUAHG9GAGBPRQ=="
        ),
    ),
    Case(
        "hopper_fp8",
        ("e4m3", "e4m3"),
        (8, 64),
        (64, 8),
        a=(
            "AACAgIAAgICAAACAAICAgAAAAIAAgAKAgIDugIAAggCAgFoAgAAagAOAgACAAMgAgACAAAAAgIAAAICAAAAAgICAgACAAAAA"
            "gAAAAICAgICAgNaGAAAAAIABAICAgICAgICAAICAAIAAgAAAgACAAQOAgICAAIATAAiAAICwAAAAAIAAAAAAAICAAIA8gIAA"
            "gICA25OAgAAAAP1eAIAAgIAAgACAgAAAAHEAAJWAAAArgICAAICAAAAAgOOAgAAZAACABoCAgAAAYgAAAAAzADFogICA1wAA"
            "AIAAAACAgJAAXN4AgECAABCAgACBAICAAICAAAB1ACmBAOGAIAAAAQAAgIAAgICA2oCAgIAAgQCAgICAgICAzACAgIAAgICA"
            "gLAAgIBhAADOAIBbgIAAgICugICAAAAAAIIAdAAAADoAAACAgIAAAICAAIBFAACAOVSAgNwAgIAAgICAAICzgIAAAACAgIDI"
            "gAAAgACAFwCAgIAAsgAAAAAAgAAAhYCAgAAAgIAArQAAAIDtAIAAAAAAAADqgICAgIAAgICAgAAAgAAAgAAAgACAAICAAAEA"
            "gACAAIWAAIAAgACAAACAgAAAgIKAgACAgMIAANm8AIAAAACAgIAAwIckAIgAAICAAIAAgACAgACAAAAAgIAAgAAAgAAAAACA"
            "AACAgABB5QA="
        ),
        b=(
            "gB2AgACAgIBHAEsAAIAAgAAAgIAAAICAgICAAAAAgICAAAAArAAAAACAgIAAAACCAAAFgGwAAACAgIAAAIC5gAAAgIAAgICD"
            "AOwAgICAAAAAAACAgAAAgIDRgMQAAGUAAQCAAAAAVQeAAAAAgACAAIAAgCH2OwCHgACAgACAgICAKgAAAAAAAIA6AICAAAAA"
            "gIAAKwAAgACAAAAAgICfgISAAOYAAAC4AIAAAACAUACAgICAgAAASwCAAACAgICAaYCAgIAAgAAAgICAAICAAACAAABrANoA"
            "AAAAAICAgIAAAACAACsAgOeAAICAAIAAiYCAgACAgIAAAICAAICAgADIgASAgIDb8gAAg4CA2oDWRgCAgACAgIAAAICAAIDK"
            "BgAyAIAAgGIAgICAgAAAgADugAAAgACAAICAgADegICAgDOAAK5VAICAbwAAAACAgAAA2QCAgMyAgAAAgICAgICDAACAgACA"
            "AIAAgAAAAHkAAIAMgAAAgQCAAIAAAACAQX4AgEqAgACAAIAAgAAAAAAAgACAgICAsoCABYAAvACAgACAgBOAAAAAAICAgAAk"
            "AACAgACAgICAAAAAAICAAAGAAICAAAAAAoAAAICAgAAAAIAAgIAAAICAgICAAAAAgAABAICAgACAAICAAACAAIAAgIAABAAA"
            "gIAAAICAAIA="
        ),
        c=(
            "AACMwwAAdUIAAIQ7AADAvQAAGsYAACi7AAAMRQAA8DwAAFk8AAAoQAAAAAAAAJrAAADwPAAAAAAAALQ6AAAAAADURj8AABpD"
            "AACHRgAAGkAAAA/HAAAAAABYAkYAAII9AIBXxQAgccUAALI8AAA0vQAAGsMAgG4/AOQVxAD4G0IAAKBCAAAAAAAAmsAAAC47"
            "AADgPgDUQ0AAAKLCAADwPQDgUj4AoHVBAAAAAAAAqEQAAAAAAPTfQgAAKUIAWMBBAAAgPwAAakQAAIK7AMCVRQAAHMIAANy5"
            "AACpxQAAoEIAgIK/AABwQwAAAAAAAAAAAAAAAAAA0L4AAGrDAAB8vg=="
        ),
    ),
    Case(
        "hopper_fp8",
        ("e4m3", "e4m3"),
        (2, 512),
        (512, 2),
        a=(
            "6afqpEA4a7zQPPG8S7DIOOU5WDRfsuIk3C7UsvI14DjkKGCs6LXdslS82rfYvOyxr7JhNW4UXJ7Ysuc5bq5pLOo42yzXIG2n"
            "27ZeQOw5STLfCeasbDjfQuGx6bvYJj43Rj9gNU6XYSPgJF+5ZDboQW28xjXZtWu467NfJWqi6bTyN9w46jppGeU56bHuFt68"
            "a7tTusOn7CbQr2kxajpIK1yxC7xHJWmW6TnqMWq6y5/nPWurYzJyptM06INjn+y3XDPsuOY1Z4XnMmyi1zHSneGs4b5aneVA"
            "47DoOW052jDgMWA96KfpsFmvS7rasmQr7qvSOVZA6rRtrumz4p9prls/4qbqMFw2UqnptGsd573atWAoZh5puFK8cTtZN201"
            "5aljouM97LTgueex4CnpPOG/5jZZOOC56KrYtE0/4qlrPkCda6JiqW+r4R9lqek/wRNts9Uy7DHjsuohXqvpOeqZ57G+rMMf"
            "5MDnn+q8arTlMm66ZZnaL8oiVaTgp+sUdCBnHm2vYja6qnEe67PSwFOx4ZteGssn7Dw1N+w8XR/QMmsQTUFqt+pAcMFiMug3"
            "YUDfm1EzYjhpLeg9QcJnL2sB5q3mKtw3abdkoWEodBfzPVox4TJkt2M0YzVfr9Yy5qXgrc+63LZuse26ZhXdIt201inpLuo1"
            "YZzkNdC37rzos98z5q1iuW416TLwNe8qYyzrre+w5JlWuOk53C/VrmQb0zHRNGqvQyJosOOsUSpwMeEq4TTkNfAxaijRrWgw"
            "WCfsq2C5XLHoums2Q7ZBsWQraDrLP0gs5KPovsOu7zRUOVmv2o7jNWk9W6zrt+jB0TvqO9G25EDoKWPHwj1ku2Y0UCxcM8yt"
            "VLfkuuC5ZMFhrOc44jfBs9+x5jZfOWBA0DNCvWEjZTjlPUOh3IHduOi4ZRhxPmMyYsBfPmGqarrXM2I78brlNVql5DHoOea6"
            "VkBlum046z3Sqlm6YSzYDle54L7lmme+1QdqOu27ZqjXuN4w5DrqqeVB77vcsFi0WEJeu7M1YZZnreE3ZRJprF0qXinkOegm"
            "YynhvMe/4J7XOFsjzbzxqVqjaaz0qN8BabPzMuk81YlYtWko3UVsPuM06rXbvOu0ZaztLtE7YCtpNueJXwHSN++46z5dvVug"
            "ajvcweCy6UHmL+cwaEJkM9qp6TFhqmI+zr5puGi64TNWDESoVbfwKti3ajFhOk6o6jptMG2u477rNt+33RvGumqpxa1oHdsp"
            "2bppMFw2Z69jqNyq3qnhrVgzVDbavG47calru2e5UrxlvukuYhVcvN0+1aJrrmm06indPOQ16LjwpWav4TNyK9s6azlKvts+"
            "YjFrwMLDbS7jtPGv4jBqnA=="
        ),
        b=(
            "Y2soQF5YMTjtRSu9XVItNGltvLbJUje6QFe/oWlotS7mWKwyXV+5n99gszTd7Cs5WOUoIODrNCzn6TI9Zuu8OjzNLahpaKpA"
            "51vCK2JkHCtj3DklTkw7O/Jws6Hf47S+Zty4rezxLSZxX8Gr3ezBuWnhhCHd0as3U1q3t+rYGr8jwaE012srQs/vKiHl7Ti3"
            "yuoztmhhubNLWRIra9k0nN/hOqFrZL4w1mgjuU7mObrmaRq2VeCjuuvaOTJc7rQp8W4YsOZQOTfV4bm72lM5werbs6jfXDVA"
            "U1wyuOnkrjbzai445GbAqfTqr6jD67q16+A6KOXiK6zcbDAwWMUyuuXmwiJcb5K9V+ozw2nQQL9haaK00eBAjmhquS9haaml"
            "aMm6JrpMvCTj1LqxYtA3J2TrwZxg6kAr52qwuehnuTFZ8DI40GWtqd7qrzblaj87WmrAE2baOIdtaDW3TMSxueHsOr4v1iG8"
            "XWK6tedjsDhEXKUYZOWvwuHjvrHmWDgxZ9tBqunssDxp6MA032S2q2PlOj9h7K+TUtkbpUJkuZ5nXCSc5F0/NOvMsjbuVDA0"
            "4XG6s21dLr1nYh8211uotOLROLHUVbOxWmi/OlpduS1xaas+6tu6NGbdQaA52qkmal25s2rjOzxkOCw8tuM5umPaPKan6CAq"
            "wmwqItVrvznScjAwyOooMeFRqrPI7Lg12GCfpepptbVgaLS0ZdS1NlbtMa3p6hIx0l1Ds9Jip7Rg4zeh7mKeLN7ct7lxXKG1"
            "Slw5NvFuNcRm1SYz52O8RdzltKXi6CyhavAzvOroiyzl5bu002mpMtzgrztlbLSjZPC2I1buq7toazg8UuawumlZM6hoaym8"
            "aWepu+lqKjfe6LOzWWciQ15oOS1BZC0uPmAqONJiNbJlaKOwZ1c4OMhhLbxp8CAjXWMdJmhQITnMY6y1bG+8ud9oI0NAwj0f"
            "41kKrVNfITHh7Da+48atIepUMcJhy7Y16163Jt1oM7ja8bIk3+Qlu1HnOKrp7S64U1+8N1LYoT/k36s67FuruezsOjJrWSq0"
            "Ru8JwOzdrDRg56siW1e4umfNMq/p4bwu6OmNpujSFr/KTbUu6mQ9vnHgwbQ0aTa+5WKjNeHqtLvT6yxBbVqztGtbOijXZSQv"
            "Yty/MdbtNrnicaAnWmc5wGNlKDbS6rEx3mQqq+NxLCRL4Q8q5c09sGNboihdVz07XiC7NNrVQjjT4C8pXOs9tmZZuzlw2qs7"
            "5t61MNTlFsHpZK+qYWUiOOZYGLfxWpm87dM6u2VpKbTn3amuZG24rGLdNrbl7Du44906Ou7lF71i3Lm66VyZusrRQ61ibyu0"
            "Scotp+brsrRd26e0bFg5Nw=="
        ),
        c=("AKkcRwCf90cA2lpHANw2Rw=="),
    ),
    Case(
        "hopper_fp8_fast",
        ("e4m3", "e4m3"),
        (2, 512),
        (512, 2),
        a=(
            "6afqpEA4a7zQPPG8S7DIOOU5WDRfsuIk3C7UsvI14DjkKGCs6LXdslS82rfYvOyxr7JhNW4UXJ7Ysuc5bq5pLOo42yzXIG2n"
            "27ZeQOw5STLfCeasbDjfQuGx6bvYJj43Rj9gNU6XYSPgJF+5ZDboQW28xjXZtWu467NfJWqi6bTyN9w46jppGeU56bHuFt68"
            "a7tTusOn7CbQr2kxajpIK1yxC7xHJWmW6TnqMWq6y5/nPWurYzJyptM06INjn+y3XDPsuOY1Z4XnMmyi1zHSneGs4b5aneVA"
            "47DoOW052jDgMWA96KfpsFmvS7rasmQr7qvSOVZA6rRtrumz4p9prls/4qbqMFw2UqnptGsd573atWAoZh5puFK8cTtZN201"
            "5aljouM97LTgueex4CnpPOG/5jZZOOC56KrYtE0/4qlrPkCda6JiqW+r4R9lqek/wRNts9Uy7DHjsuohXqvpOeqZ57G+rMMf"
            "5MDnn+q8arTlMm66ZZnaL8oiVaTgp+sUdCBnHm2vYja6qnEe67PSwFOx4ZteGssn7Dw1N+w8XR/QMmsQTUFqt+pAcMFiMug3"
            "YUDfm1EzYjhpLeg9QcJnL2sB5q3mKtw3abdkoWEodBfzPVox4TJkt2M0YzVfr9Yy5qXgrc+63LZuse26ZhXdIt201inpLuo1"
            "YZzkNdC37rzos98z5q1iuW416TLwNe8qYyzrre+w5JlWuOk53C/VrmQb0zHRNGqvQyJosOOsUSpwMeEq4TTkNfAxaijRrWgw"
            "WCfsq2C5XLHoums2Q7ZBsWQraDrLP0gs5KPovsOu7zRUOVmv2o7jNWk9W6zrt+jB0TvqO9G25EDoKWPHwj1ku2Y0UCxcM8yt"
            "VLfkuuC5ZMFhrOc44jfBs9+x5jZfOWBA0DNCvWEjZTjlPUOh3IHduOi4ZRhxPmMyYsBfPmGqarrXM2I78brlNVql5DHoOea6"
            "VkBlum046z3Sqlm6YSzYDle54L7lmme+1QdqOu27ZqjXuN4w5DrqqeVB77vcsFi0WEJeu7M1YZZnreE3ZRJprF0qXinkOegm"
            "YynhvMe/4J7XOFsjzbzxqVqjaaz0qN8BabPzMuk81YlYtWko3UVsPuM06rXbvOu0ZaztLtE7YCtpNueJXwHSN++46z5dvVug"
            "ajvcweCy6UHmL+cwaEJkM9qp6TFhqmI+zr5puGi64TNWDESoVbfwKti3ajFhOk6o6jptMG2u477rNt+33RvGumqpxa1oHdsp"
            "2bppMFw2Z69jqNyq3qnhrVgzVDbavG47calru2e5UrxlvukuYhVcvN0+1aJrrmm06indPOQ16LjwpWav4TNyK9s6azlKvts+"
            "YjFrwMLDbS7jtPGv4jBqnA=="
        ),
        b=(
            "Y2soQF5YMTjtRSu9XVItNGltvLbJUje6QFe/oWlotS7mWKwyXV+5n99gszTd7Cs5WOUoIODrNCzn6TI9Zuu8OjzNLahpaKpA"
            "51vCK2JkHCtj3DklTkw7O/Jws6Hf47S+Zty4rezxLSZxX8Gr3ezBuWnhhCHd0as3U1q3t+rYGr8jwaE012srQs/vKiHl7Ti3"
            "yuoztmhhubNLWRIra9k0nN/hOqFrZL4w1mgjuU7mObrmaRq2VeCjuuvaOTJc7rQp8W4YsOZQOTfV4bm72lM5werbs6jfXDVA"
            "U1wyuOnkrjbzai445GbAqfTqr6jD67q16+A6KOXiK6zcbDAwWMUyuuXmwiJcb5K9V+ozw2nQQL9haaK00eBAjmhquS9haaml"
            "aMm6JrpMvCTj1LqxYtA3J2TrwZxg6kAr52qwuehnuTFZ8DI40GWtqd7qrzblaj87WmrAE2baOIdtaDW3TMSxueHsOr4v1iG8"
            "XWK6tedjsDhEXKUYZOWvwuHjvrHmWDgxZ9tBqunssDxp6MA032S2q2PlOj9h7K+TUtkbpUJkuZ5nXCSc5F0/NOvMsjbuVDA0"
            "4XG6s21dLr1nYh8211uotOLROLHUVbOxWmi/OlpduS1xaas+6tu6NGbdQaA52qkmal25s2rjOzxkOCw8tuM5umPaPKan6CAq"
            "wmwqItVrvznScjAwyOooMeFRqrPI7Lg12GCfpepptbVgaLS0ZdS1NlbtMa3p6hIx0l1Ds9Jip7Rg4zeh7mKeLN7ct7lxXKG1"
            "Slw5NvFuNcRm1SYz52O8RdzltKXi6CyhavAzvOroiyzl5bu002mpMtzgrztlbLSjZPC2I1buq7toazg8UuawumlZM6hoaym8"
            "aWepu+lqKjfe6LOzWWciQ15oOS1BZC0uPmAqONJiNbJlaKOwZ1c4OMhhLbxp8CAjXWMdJmhQITnMY6y1bG+8ud9oI0NAwj0f"
            "41kKrVNfITHh7Da+48atIepUMcJhy7Y16163Jt1oM7ja8bIk3+Qlu1HnOKrp7S64U1+8N1LYoT/k36s67FuruezsOjJrWSq0"
            "Ru8JwOzdrDRg56siW1e4umfNMq/p4bwu6OmNpujSFr/KTbUu6mQ9vnHgwbQ0aTa+5WKjNeHqtLvT6yxBbVqztGtbOijXZSQv"
            "Yty/MdbtNrnicaAnWmc5wGNlKDbS6rEx3mQqq+NxLCRL4Q8q5c09sGNboihdVz07XiC7NNrVQjjT4C8pXOs9tmZZuzlw2qs7"
            "5t61MNTlFsHpZK+qYWUiOOZYGLfxWpm87dM6u2VpKbTn3amuZG24rGLdNrbl7Du44906Ou7lF71i3Lm66VyZusrRQ61ibyu0"
            "Scotp+brsrRd26e0bFg5Nw=="
        ),
        c=("AKAcRwCU90cAwFpHANw2Rw=="),
    ),
    Case(
        "hopper_bf16",
        ("bfloat16", "bfloat16"),
        (6, 32),
        (32, 6),
        a=(
            "D75XvXa9LDoGPto9dTlMPzs/wcEYvC8/N0K/vvo+/D9BvM8+rj2iwO9CisBAQB/BaMEqP+JCtEB6PIG/976ZQEM8ZsKDvnDC"
            "tsG2wIs8P7s6wWs9BsI1PovAX8BAvR885rt6PSzAjj05QIu/hD+lwLhDIj5qwik94kIgPLi/kkCtvAFCgsHuP7k/mDw5Pvu+"
            "+byrQcZAoD0QPji+CkNPw3A/NsJiP4M6B77PvURBVsDLQY08UL2qPi9A4LudwmZCDsDFvY7C5z4qvjc88D1TQGK9asEgQizA"
            "7kFPv6295L2rvXrBHECKQCE//ECJQprCfEAMO2BA8cKGPCBBgbwqQBJDVcDFQD0+nMJ4vyVDrb+ru5dBmT3CvxU9ATzhOKQ8"
            "lUKcwQhCbr1+Pwc+wkCYv8k8qsAEvFPADj+0wlC+tbwBv1/B00EWQZE9CL2gway9RMHSPNW8SEAWQao/5DzBP6S9GUMCv+g8"
            "FMFEPqs7vj7NwFvBJDv2P1vAhryHu04+"
        ),
        b=(
            "qr58QOW94UJkQm89h7w6wZw9SEKzOpE+kEHbPWa7qT3fun49m8A9QAM/scCgv5NA0Lo5wMhBZb0NPY48DT4uwsLCn0AMQKM9"
            "nbzLPQ46UL1IulA+SkCTPJ5CMLofPtW+fT+MvoE9sMBuQhVAPEIsvh++RD4EQRnBpj85v+FAzMHNQUA8wjuYQlvBvTo3wa1C"
            "Rb0MPpvAIL2rQmhDC8GPPkM8iD1/wMe8bbw2QT7BMcByvzk7lTySQp5BHb3YwrPB6sF8QYrCaEPHvUu+NDxGQQ08S74/v9i/"
            "j7yGPbu/iL3wQb9BwMGevqq+O76DwQ1CUb/CwQ0+Bz0OwoS+FbpnugNAKkE+QJO92Ls2QD/AC8FlvQdCKcDIvwpDcr65QL2/"
            "Oj3+P3A8qkGsvWNArEJ7PArBksAOvRdBkT+hQu3A3Lx8PAg9Ojt/PAO8Ljs+PatAfD+Bwpk/hD/OQbk7jb79P+JBeEBqvAJC"
            "9cC6u7DAhTwHwdfBjL8Dv1u/lT/NwObC"
        ),
        c=(
            "2zZgxDIKyEWR1RTFHrrMw7hrNMTnMR9GosqxQ2zSI8bnYsrDJvzDRSThRkTpYADE4qOZRLbeY8bSXrfFu9LgRAN8s0auPhNE"
            "Bu/gxBBNH0P1PB7GdfDQxCzCNUXgbwpGMiHQxAMXu0RcjRnGMIoBR3hfFEYxTgrFHwQ/xIomM0UA9uJCV8VWxJIObcImX/hE"
        ),
    ),
    Case(
        "hopper_fp16",
        ("half", "half"),
        (6, 32),
        (32, 6),
        a=(
            "8FMVvPNRv7b7Ud3BY9fasThNTqoc2Eqqj8wVtGDCwba3VFO0GdG5sg3KfrmZ1jnAQ9J0LGNN6zWX1tg2jU4YOVND1q9STCm8"
            "rVAgQdzQc6w1zEe1EdGlMJfTr7t0UKLBjVHgtdBULjOUyAG8LFHzKUDXm61m1mE4xtG0vclGHbi/TwO/QMxbMGhWyL6a1+M6"
            "pU61M8hQF7tLyus8t8TwvBnLejuxSRM4Xc3ZwA3SZr3N0YG2DNW0nrVRC7ig1Cw6DMxfPCXTljhL2LY2jM0jPrFEWT0OT6u8"
            "lFQJuRzAADeW0PO208hOO7XNrD4ZVci+DtjDN7POvLoi14m9H0j2wH3NXLwNzFa+IctIuUtVeDPHS9w4nlO5uz5YhL6FPdE1"
            "Zc+5OSLSYb850kq4qUsIMhvSF70FU9o/3c5FOUTJGyrqWD02/9R4OKbU5LyU0YE3kMqativYNDj3VA05uFToOBbVF7wjUya7"
            "W1Kyvg1RbzxTTDKx2lPWqp/TMTgbTAQ0"
        ),
        b=(
            "HtNhKsdDN7lTzkG2k1eUO1JSpzUaU5k2SlVktLtWeTq+VuM0ZdRDO/TWWbXFwGy5BlRmuHpQBD65x+K7WVF0u1RZlbR2Uf+5"
            "KFGarlHKC8CE1Pk8j1VOOnPOiLpKUmQ3HNR/QVTCejhNVdMwRs3XPHrQgihy0MQ4Ps3XPNVJ0bzn0vI62la6tfNUH7v3Txk7"
            "xFWlPwtKCL2ryAQ2Z1D4swXZhri8VRu5W05NuXtKsT9b0Yuzt9Qts0hT5JQA1vO+tU7vvInPdjqLUwm4+M8oN0PTdDzS1BSy"
            "7Et1umbRizlyzWC9rVW1OMZU0j1M1DAwCljxuZJDeD7P1Uo/NdG/PA5HezeASty3fMjUoJvRKa31Qb09fc2yPB1ODTwp1im4"
            "2MhCunvRYDygUuI4iMVttXNUuTW3Sjw4js/uOIfTm7aeU6I8mtIxONJTDjHHyBO/ndS8LYrYoLwXyFSqj1Bmve9UfKym2gK7"
            "ztIOPtnMK6LJz+0tHU3HI7NUDLiJVRq0"
        ),
        c=(
            "eamdRQSKAMPTasxGxfwOROM2y0Zwi+zD7hDzRblkp8OHnWZGaTa5Q4R5rcX5b8/DwP2LxT/6FcKWIsxF+fRrQ6uGqkRjEvDD"
            "L+AixfDH3UOl2TRG6Q7Jw6sPPcbnphxDd+6qRXr5B0TxlH9F8jEYxKMoscVUa4hDLYA1xb2IHUI5RuvFigz1Qj8bRcZC6uNB"
        ),
    ),
)
